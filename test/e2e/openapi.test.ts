import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { RouteOptions } from 'fastify';
import { Controller, Get, Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify';
import { createApp } from '../../src/app/app.ts';
import { readConfig } from '../../src/core/config.ts';
import { ERRORS } from '../../src/core/errors.ts';
import { createDatabase, settingsOf, type TestDatabase } from '../support/database.ts';
import { openApiSchema, referencesIn, resolveReference, type OpenApi } from '../support/openapi-format.ts';
import { TEST_SECRET } from '../support/tokens.ts';
import { Public } from '../../src/http/access.ts';
import { DocsModule } from '../../src/openapi/docs.controller.ts';
import { problemsOf, type Operation, Operations } from '../../src/openapi/document.ts';

/** `GET /v1/notifications/{id}` for every route of the service. */
const routes = new Set<string>();
let app: NestFastifyApplication;
let database: TestDatabase;
let url: string;
let document: OpenApi;
let operations: readonly Operation[];

beforeAll(async () => {
  database = await createDatabase();
  app = await createApp(
    readConfig({ LOG_LEVEL: 'silent', ...settingsOf(database), JWT_SECRET: TEST_SECRET }),
  );
  operations = app.get(Operations).all;
  const fastify = app.getHttpAdapter().getInstance();
  fastify.addHook('onRoute', ({ method, url: path }: RouteOptions) => {
    for (const each of [method].flat()) {
      // HEAD comes with every GET.
      if (each !== 'HEAD' && each !== 'OPTIONS') routes.add(`${each} ${path.replaceAll(/:(\w+)/g, '{$1}')}`);
    }
  });
  await app.listen(0, '127.0.0.1');
  url = await app.getUrl();
  document = openApiSchema.parse(await (await fetch(`${url}/openapi.json`)).json());
});

afterAll(async () => {
  await app.close();
  await database.drop();
});

const titleOf = ({ method, path }: Operation) => `${method.toUpperCase()} ${path}`;

/** Everything with examples that an operation takes or answers. */
const jsonOf = ({ body, answers }: Operation) => [
  ...(body === undefined ? [] : [body]),
  ...answers.flatMap(({ content = [] }) => content.filter((each) => 'schema' in each)),
];

describe('the OpenAPI document', () => {
  test('has every route of the service, and no other', () => {
    const described = Object.entries(document.paths).flatMap(([path, item]) =>
      Object.keys(item).map((method) => `${method.toUpperCase()} ${path}`),
    );
    expect(described.toSorted()).toEqual([...routes].toSorted());
  });

  test('is not made, and the service does not start, while a handler is not described', async () => {
    @Controller()
    class Forgetful {
      @Get('forgotten')
      @Public()
      forgotten(): void {}

      helper(): void {}
    }
    @Module({ imports: [DocsModule], controllers: [Forgetful] })
    class ForgetfulModule {}
    const started = NestFactory.create(ForgetfulModule, new FastifyAdapter(), {
      logger: false,
      abortOnError: false,
    });
    await expect(started).rejects.toThrow(/@Describe is missing on Forgetful\.forgotten\.$/);
  });

  test('leads nowhere that does not exist, and holds no schema that nobody uses', () => {
    const references = referencesIn(document);
    for (const reference of references)
      expect([reference, resolveReference(document, reference)]).toEqual([reference, expect.anything()]);
    const used = new Set(references);
    for (const name of Object.keys(document.components.schemas))
      expect(used).toContain(`#/components/schemas/${name}`);
  });

  test('names each operation once, and describes the parameters of its path', () => {
    expect(new Set(operations.map(({ id }) => id)).size).toBe(operations.length);
    for (const { path, pathParameters } of operations) {
      const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
      expect(Object.keys(pathParameters?.shape ?? {})).toEqual(inPath);
    }
  });

  test('says who may call what', () => {
    expect(document.paths['/v1/notifications']?.post?.security).toEqual([
      { token: ['notifications:publish'] },
    ]);
    expect(document.paths['/v1/stream']?.get?.security).toEqual([{ token: [] }, { session: [] }]);
    expect(document.paths['/health/live']?.get?.security).toEqual([]);
  });

  test('describes every error of the table somewhere, but those that belong to no route', () => {
    const described = new Set(operations.flatMap(problemsOf));
    const missing = Object.keys(ERRORS).filter((code) => !described.has(code as keyof typeof ERRORS));
    expect(missing).toEqual([
      'malformed_request',
      'method_not_allowed',
      'request_timeout',
      'expectation_failed',
      'headers_too_large',
    ]);
  });

  test('has examples that its schemas accept', () => {
    for (const operation of operations)
      for (const content of jsonOf(operation)) {
        expect([titleOf(operation), Object.keys(content.examples)]).not.toEqual([titleOf(operation), []]);
        for (const [name, { value }] of Object.entries(content.examples)) {
          const { error } = content.schema.safeParse(value);
          expect([titleOf(operation), name, error]).toEqual([titleOf(operation), name, undefined]);
        }
      }
  });
});

describe('the pages', () => {
  const page = async (path: string) => {
    const response = await fetch(`${url}${path}`);
    expect(response.status).toBe(200);
    expect(response.headers.get('content-type')).toBe('text/html; charset=utf-8');
    expect(response.headers.get('content-security-policy')).toMatch(
      /^default-src 'none'; script-src 'self'; style-src 'self';/,
    );
    return response.text();
  };

  test('load everything from the service itself', async () => {
    for (const path of ['/docs', '/docs/errors']) {
      const loaded = [...(await page(path)).matchAll(/<(?:script|link|img)[^>]+(?:src|href)="([^"]+)"/g)].map(
        ([, target]) => target ?? '',
      );
      expect(loaded).toContain('/docs/assets/page.css');
      for (const target of loaded.filter((each) => each !== 'data:,')) {
        expect(target).toMatch(/^\/docs\/assets\//);
        const asset = await fetch(`${url}${target}`);
        expect(asset.status).toBe(200);
        const again = await fetch(`${url}${target}`, {
          headers: { 'if-none-match': asset.headers.get('etag') ?? '' },
        });
        expect([again.status, await again.text()]).toEqual([304, '']);
      }
    }
    expect((await fetch(`${url}/docs/assets/package.json`)).status).toBe(404);
  });

  test('have a place for every error, where the type of a problem leads', async () => {
    const text = await page('/docs/errors');
    for (const code of Object.keys(ERRORS)) expect(text).toContain(`id="${code}"`);
    const problem = (await (await fetch(`${url}/v1/stream`)).json()) as { type: string };
    const [path, anchor] = problem.type.split('#');
    expect([path, anchor]).toEqual(['/docs/errors', 'token_missing']);
  });
});
