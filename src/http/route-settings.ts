import { RouteConfig } from '@nestjs/platform-fastify';
import { FASTIFY_ROUTE_CONFIG_METADATA } from '@nestjs/platform-fastify/constants.js';
import type { FastifyContextConfig } from 'fastify';

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
