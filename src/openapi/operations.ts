import { Injectable } from '@nestjs/common';
import { DiscoveryService, MetadataScanner, Reflector } from '@nestjs/core';
import { type Access, settingsOf } from '../http/access.ts';
import { Describe, type Description, type Fields } from '../http/description.ts';
import { routesOf } from '../http/routes.ts';

/** One route as callers see it: what `@Describe` says, and what the other decorators of its handler say. */
export interface Operation extends Omit<Description, 'byQuery'> {
  readonly method: string;
  /** With `{parameters}`, as OpenAPI writes them. */
  readonly path: string;
  readonly access: Access;
}

/** Every operation of the service. Throws while it is made if a handler is not described, so the service does not start. */
@Injectable()
export class Operations {
  readonly all: readonly Operation[];

  constructor(discovery: DiscoveryService, scanner: MetadataScanner, reflector: Reflector) {
    const undescribed: string[] = [];
    this.all = routesOf(discovery, scanner).flatMap(({ name, handler, method, paths }) => {
      const description: Description | undefined = reflector.get(Describe, handler);
      const access = settingsOf(handler)?.access;
      if (description === undefined) undescribed.push(name);
      // A handler that does not say who may call it is refused by AuthModule.
      if (description === undefined || access === undefined) return [];
      return operationsOf(description, method, paths.map(inOpenApi), access);
    });
    if (undescribed.length > 0) throw new Error(`@Describe is missing on ${undescribed.join(', ')}.`);
  }
}

const inOpenApi = (path: string): string => path.replaceAll(/:(\w+)/g, '{$1}');

function operationsOf(
  { byQuery, ...description }: Description,
  method: string,
  [path = '', secondPath]: readonly string[],
  access: Access,
): Operation[] {
  const operation: Operation = { ...description, method: method.toLowerCase(), path, access };
  if (byQuery === undefined || secondPath === undefined) return [operation];
  return [operation, namedInQuery(operation, secondPath, byQuery)];
}

/** What is said of a user in the path, for one who is named in the query. */
function namedInQuery(byPath: Operation, path: string, query: Fields): Operation {
  const { pathParameters: _, problems, ...operation } = byPath;
  return {
    ...operation,
    path,
    id: `${operation.id}ByQuery`,
    summary: `${operation.summary}, named in the query`,
    description: `As \`${operation.method.toUpperCase()} ${operation.path}\`, for any user: no path carries \`.\` or \`..\`, since clients take them
for a step in it, also when they are encoded.`,
    query,
    problems: problems.filter((code) => code !== 'not_found'),
  };
}
