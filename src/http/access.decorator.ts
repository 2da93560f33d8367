import { createParamDecorator, type ExecutionContext } from '@nestjs/common';
import type { FastifyRequest } from 'fastify';
import type { z } from 'zod';
import { RouteSettings, settingsOf } from './route-settings.ts';
import type { ServiceScope } from '../core/scopes.ts';
import type { Principal } from './principal.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** Set once the caller's token was verified. */
    user?: Principal;
  }
  interface FastifyContextConfig {
    /** Who may call the handler. */
    access?: Access;
  }
}

/** Who may call a handler. */
export type Access =
  | { readonly kind: 'public' }
  | { readonly kind: 'service'; readonly anyOf: readonly ServiceScope[] }
  | { readonly kind: 'user'; readonly clockTolerance: boolean; readonly ticketQuery: z.ZodType | undefined };

/** For everybody, without a token: health, metrics, documentation. */
export const Public = (): MethodDecorator => declare({ kind: 'public' });

/** For service tokens with at least one of these scopes; 403 `scope_missing` for others. */
export const RequireScope = (...anyOf: [ServiceScope, ...ServiceScope[]]): MethodDecorator =>
  declare({ kind: 'service', anyOf });

/**
 * For logged-in users; 403 `not_for_services` for a token with any service scope.
 *
 * @param clockTolerance false where even a token in its seconds of grace is too old: what it opens would have to
 * end before it began.
 * @param ticketQuery the query of a route where its parameter `ticket` does in place of a token
 */
export const UserOnly = ({
  clockTolerance = true,
  ticketQuery,
}: { readonly clockTolerance?: boolean; readonly ticketQuery?: z.ZodType } = {}): MethodDecorator =>
  declare({ kind: 'user', clockTolerance, ticketQuery });

/** The caller, in a handler that is not public. */
export const CurrentPrincipal = createParamDecorator((_: unknown, context: ExecutionContext): Principal => {
  const { user } = context.switchToHttp().getRequest<FastifyRequest>();
  if (user === undefined) throw new Error('A public handler has no principal.');
  return user;
});

function declare(access: Access): MethodDecorator {
  return (target, name, descriptor) => {
    // A second declaration would silently replace the first.
    if (typeof descriptor.value === 'function' && settingsOf(descriptor.value)?.access !== undefined) {
      throw new Error(`${target.constructor.name}.${String(name)} declares twice who may call it.`);
    }
    RouteSettings({ access })(target, name, descriptor);
  };
}
