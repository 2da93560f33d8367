import { createParamDecorator, type ExecutionContext, RequestMethod } from '@nestjs/common';
import type { FastifyContextConfig, FastifyRequest } from 'fastify';
import type { z } from 'zod';
import { RouteConfig } from '@nestjs/platform-fastify';
import { FASTIFY_ROUTE_CONFIG_METADATA } from '@nestjs/platform-fastify/constants.js';
import { METHOD_METADATA, PATH_METADATA } from '@nestjs/common/constants.js';
import type { DiscoveryService, MetadataScanner } from '@nestjs/core';
import {
  type DeviceId,
  SERVICE_SCOPES,
  type ServiceScope,
  type TenantId,
  type Topic,
  type UserId,
} from '../core/identifiers.ts';

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

/** Who is calling: everything that the service believes about a caller comes from here, and this from the verified token alone. */
export interface Principal {
  readonly tenantId: TenantId;
  /** `sub`: the user of a client, the client id of a service. */
  readonly subject: UserId;
  readonly scopes: ReadonlySet<string>;
  readonly topics: readonly Topic[];
  /** Topics that a service may publish to; undefined: all, since its token has no claim of topics. */
  readonly publishesTo: ReadonlySet<Topic> | undefined;
  /** The `device` claim; it wins over what the request says. */
  readonly device: DeviceId | undefined;
  /** End of the token, ms since 1970. */
  readonly expiresAt: number;
  /** `iss` of the token. */
  readonly issuer: string;
  /** `jti`, by which this one token can be revoked. */
  readonly tokenId: string | undefined;
  /** `iat`, ms since 1970. A token without it counts as older than every revocation of its user. */
  readonly issuedAt: number | undefined;
}

export const isService = (principal: Pick<Principal, 'scopes'>): boolean =>
  SERVICE_SCOPES.some((scope) => principal.scopes.has(scope));

/** Adds to what hooks are told of a route. Nest's own RouteConfig replaces what other decorators of the handler said. */
export const RouteSettings =
  (settings: FastifyContextConfig): MethodDecorator =>
  (target, name, descriptor) => {
    const handler: unknown = descriptor.value;
    if (typeof handler !== 'function') throw new TypeError(`${String(name)} is no handler.`);
    RouteConfig({ ...settingsOf(handler), ...settings })(target, name, descriptor);
  };

export function settingsOf(handler: object): FastifyContextConfig | undefined {
  const said: FastifyContextConfig | undefined = Reflect.getMetadata(FASTIFY_ROUTE_CONFIG_METADATA, handler);
  return said;
}

/** A handler of a controller, and what its decorators say about where it is found. */
interface Route {
  /** Controller and method, to name the handler in an error: `PublishController.publish`. */
  readonly name: string;
  readonly handler: () => unknown;
  /** `GET`, `POST` … */
  readonly method: string;
  /** Each from the root of the service, with parameters as Nest writes them: `/v1/notifications/:id`. */
  readonly paths: readonly string[];
}

/** Every route of the application, from the metadata of Nest's decorators. */
export function routesOf(discovery: DiscoveryService, scanner: MetadataScanner): Route[] {
  return discovery.getControllers().flatMap(({ name, metatype }) => {
    if (typeof metatype !== 'function') return [];
    const prototype: object = metatype.prototype;
    return scanner.getAllMethodNames(prototype).flatMap((key): Route[] => {
      const handler: unknown = Reflect.get(prototype, key);
      if (!isHandler(handler)) return [];
      const method: RequestMethod = Reflect.getMetadata(METHOD_METADATA, handler);
      const paths = pathsIn(metatype).flatMap((prefix) =>
        pathsIn(handler).map((path) => `/${[prefix, path].filter((part) => part !== '/').join('/')}`),
      );
      return [{ name: `${name}.${key}`, handler, method: RequestMethod[method], paths }];
    });
  });
}

const isHandler = (value: unknown): value is () => unknown =>
  typeof value === 'function' && Reflect.hasMetadata(METHOD_METADATA, value);

/** What `@Controller` or a decorator such as `@Get` was given; both make '/' of nothing. */
function pathsIn(decorated: object): string[] {
  const path: string | string[] = Reflect.getMetadata(PATH_METADATA, decorated);
  return [path].flat();
}
