import { Injectable, type CanActivate, type ExecutionContext } from '@nestjs/common';
import { Reflector } from '@nestjs/core';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { z } from 'zod';
import { Cors } from './cors.ts';
import { Problem } from '../core/errors.ts';
import { parseQuery } from '../http/json-body.ts';
import { Tenants } from '../tenants/tenants.ts';
import type { Access } from '../http/access.decorator.ts';
import { bearerToken, credentialsConflict, scopeMissing, tokenInvalid, tokenMissing } from './bearer.ts';
import { BUDGET, Budgets, type BudgetName } from './budgets.ts';
import { mayUseCookie, originRefused } from './cross-site.ts';
import { isService, type Principal } from '../http/principal.ts';
import { sessionToken } from './session-cookie.ts';
import { Tickets } from './tickets.ts';
import { Tokens } from './tokens.ts';

/**
 * Stands before every handler: finds out who is calling, and holds that against what the handler declares
 * (access.decorator.ts). A handler that declares nothing is closed to all.
 */
@Injectable()
export class TokenGuard implements CanActivate {
  constructor(
    private readonly tokens: Tokens,
    private readonly tickets: Tickets,
    private readonly tenants: Tenants,
    private readonly cors: Cors,
    private readonly budgets: Budgets,
    private readonly reflector: Reflector,
  ) {}

  /** @throws Problem of 401, 403, 429 or 503 */
  async canActivate(context: ExecutionContext): Promise<boolean> {
    const http = context.switchToHttp();
    const request = http.getRequest<FastifyRequest>();
    const { access } = request.routeOptions.config;
    if (access === undefined)
      throw new Error(`${context.getHandler().name} does not declare who may call it.`);
    if (access.kind === 'public') return true;
    const caller = await this.admit(request, http.getResponse());
    const budget = this.reflector.get<BudgetName | undefined>(BUDGET, context.getHandler());
    if (budget !== undefined) this.budgets.pay(budget, caller);
    return true;
  }

  /**
   * Who is calling, and whether the route is for them. Where it says nothing of that, because it is for everybody or not there,
   * a caller is one whom we know.
   *
   * @throws Problem of 401, 403 or 503
   */
  async admit(request: FastifyRequest, reply: FastifyReply): Promise<Principal> {
    const { access = { kind: 'public' } } = request.routeOptions.config;
    // A browser adds the cookie by itself; what acts for a service says so.
    if (access.kind === 'service' && bearerToken(request.raw.rawHeaders) === undefined) throw tokenMissing();
    const ticket = access.kind === 'user' ? ticketIn(request, access.ticketQuery) : undefined;
    const caller = await this.#authenticate(request, reply, ticket);
    if (access.kind !== 'public') authorize(access, caller, Date.now());
    return caller;
  }

  /**
   * Who is calling, found out once per request: by a bearer token, the session cookie, a ticket. Each one that is there
   * has to be good, and all have to be of one user: with two callers, a proxy and this service could take the request
   * for one of each.
   *
   * @param ticket undefined: none, or the route takes none
   */
  async #authenticate(
    request: FastifyRequest,
    reply: FastifyReply,
    ticket: ShownTicket | undefined,
  ): Promise<Principal> {
    request.user ??= await this.#findCaller(request, reply, ticket);
    return request.user;
  }

  async #findCaller(
    request: FastifyRequest,
    reply: FastifyReply,
    ticket: ShownTicket | undefined,
  ): Promise<Principal> {
    const { headers, raw } = request;
    const bearer = await this.#verify(bearerToken(raw.rawHeaders));
    const session = await this.#verify(sessionToken(raw.rawHeaders));
    // Last, because it is spent by being redeemed. It is the narrowest of the three, and decides.
    const granted = ticket === undefined ? undefined : await this.#redeem(ticket);
    const caller = granted ?? bearer ?? session;
    if (caller === undefined) throw tokenMissing();
    for (const other of [bearer, session])
      if (other && !isSameCaller(other, caller)) throw credentialsConflict();
    this.cors.confine(request, reply, caller.tenantId);
    const allows = (origin: string) => this.tenants.allowsOrigin(caller.tenantId, origin);
    if (granted === undefined && bearer === undefined && !mayUseCookie(headers, allows))
      throw originRefused();
    return caller;
  }

  /** Once there is nothing else in the query for which the request would be refused. */
  async #redeem({ text, query, schema }: ShownTicket): Promise<Principal> {
    const ticket = this.tickets.read(text);
    parseQuery(schema, query);
    return await this.tickets.redeem(ticket);
  }

  async #verify(token: string | undefined): Promise<Principal | undefined> {
    return token === undefined ? undefined : await this.tokens.verify(token);
  }
}

/** A ticket as it came, beside whatever else the query has. */
interface ShownTicket {
  readonly text: unknown;
  readonly query: unknown;
  /** What the query has to be. */
  readonly schema: z.ZodType;
}

/**
 * A query parameter that came twice is a list, and as such no ticket. HEAD opens no stream, and whoever only looks at a
 * link (a preview, a scanner) must not spend what is in it: to HEAD a ticket is no credential.
 */
function ticketIn({ method, query }: FastifyRequest, schema: z.ZodType | undefined): ShownTicket | undefined {
  if (schema === undefined || method === 'HEAD') return undefined;
  const text = typeof query === 'object' && query !== null && 'ticket' in query ? query.ticket : undefined;
  return text === undefined ? undefined : { text, query, schema };
}

const isSameCaller = (a: Principal, b: Principal): boolean =>
  a.tenantId === b.tenantId && a.subject === b.subject;

function authorize(access: Exclude<Access, { kind: 'public' }>, principal: Principal, now: number): void {
  if (access.kind === 'service') {
    if (!access.anyOf.some((scope) => principal.scopes.has(scope))) throw scopeMissing(access.anyOf);
    return;
  }
  if (isService(principal)) {
    throw new Problem(
      'not_for_services',
      'The token carries the scope of a service; this takes the token of a user.',
    );
  }
  if (!access.clockTolerance && principal.expiresAt <= now) throw tokenInvalid('The token has expired.');
}
