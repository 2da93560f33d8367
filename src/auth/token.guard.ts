import { Injectable, type ExecutionContext } from '@nestjs/common';
import { Reflector } from '@nestjs/core';
import { ExecutionContextHost } from '@nestjs/core/helpers/execution-context-host.js';
import { AuthGuard } from '@nestjs/passport';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { Problem } from '../errors.ts';
import { ACCESS, type Access } from './access.decorator.ts';
import { scopeMissing, tokenInvalid } from './bearer.ts';
import { JwtStrategy } from './jwt.strategy.ts';
import { isService, type Principal } from './principal.ts';

/**
 * Stands before every handler: finds out who is calling, and holds that against what the handler declares
 * (access.decorator.ts). A handler that declares nothing is closed to all.
 */
@Injectable()
export class TokenGuard extends AuthGuard() {
  constructor(
    strategy: JwtStrategy,
    private readonly reflector: Reflector,
  ) {
    super({ defaultStrategy: strategy.name });
  }

  /** @throws Problem `token_missing`, `token_invalid`, `keys_unavailable`, `scope_missing`, `not_for_services` */
  override async canActivate(context: ExecutionContext): Promise<boolean> {
    const access = this.reflector.get<Access | undefined>(ACCESS, context.getHandler());
    if (access === undefined)
      throw new Error(`${context.getHandler().name} does not declare who may call it.`);
    if (access.kind === 'public') return true;
    const http = context.switchToHttp();
    authorize(access, await this.authenticate(http.getRequest(), http.getResponse()), Date.now());
    return true;
  }

  /** Who is calling, verified once per request. */
  async authenticate(request: FastifyRequest, reply: FastifyReply): Promise<Principal> {
    if (request.user === undefined) await super.canActivate(new ExecutionContextHost([request, reply]));
    if (request.user === undefined) throw new Error('Passport let nobody in.');
    return request.user;
  }

  /** Passport hands over what it found: an error of ours, a user, or why there is none. */
  override handleRequest<User>(error: unknown, user: User | false | undefined, refused: unknown): User {
    if (error instanceof Error) throw error;
    if (user) return user;
    if (refused instanceof Problem) throw refused;
    throw tokenInvalid('The signature or the form of the token is not valid.', refused);
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
