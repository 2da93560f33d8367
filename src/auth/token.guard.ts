import { Injectable, type CanActivate, type ExecutionContext } from '@nestjs/common';
import { Reflector } from '@nestjs/core';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { Problem } from '../errors.ts';
import { ACCESS, type Access } from './access.decorator.ts';
import { bearerToken, scopeMissing, tokenInvalid } from './bearer.ts';
import { isService, type Principal } from './principal.ts';
import { Tokens } from './tokens.ts';

/**
 * Stands before every handler: finds out who is calling, and holds that against what the handler declares
 * (access.decorator.ts). A handler that declares nothing is closed to all.
 */
@Injectable()
export class TokenGuard implements CanActivate {
  constructor(
    private readonly tokens: Tokens,
    private readonly reflector: Reflector,
  ) {}

  /** @throws Problem `token_missing`, `token_invalid`, `keys_unavailable`, `scope_missing`, `not_for_services` */
  async canActivate(context: ExecutionContext): Promise<boolean> {
    const access = this.reflector.get<Access | undefined>(ACCESS, context.getHandler());
    if (access === undefined)
      throw new Error(`${context.getHandler().name} does not declare who may call it.`);
    if (access.kind === 'public') return true;
    const http = context.switchToHttp();
    authorize(access, await this.authenticate(http.getRequest(), http.getResponse()), Date.now());
    return true;
  }

  /** Who is calling, found out once per request. */
  async authenticate(request: FastifyRequest, _reply: FastifyReply): Promise<Principal> {
    request.user ??= await this.tokens.verify(bearerToken(request.raw.rawHeaders));
    return request.user;
  }
}

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
