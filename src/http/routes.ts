import { RequestMethod } from '@nestjs/common';
import { METHOD_METADATA, PATH_METADATA } from '@nestjs/common/constants.js';
import type { DiscoveryService, MetadataScanner } from '@nestjs/core';

/** A handler of a controller, and what its decorators say about where it is found. */
export interface Route {
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
