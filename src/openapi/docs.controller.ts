import { Controller, Get, Headers, Module, Param, Res } from '@nestjs/common';
import { DiscoveryModule } from '@nestjs/core';
import type { FastifyReply } from 'fastify';
import { z } from 'zod';
import { Public } from '../http/access.ts';
import { Problem } from '../core/errors.ts';
import { Describe, json, type Description } from '../http/description.ts';
import { openApiDocument, Operations } from './document.ts';
import { CONTENT_SECURITY_POLICY, errorsPage, loadAssets, referencePage } from './pages.ts';

const openApiDescription: Description = {
  id: 'openApi',
  tag: 'Operation',
  summary: 'This document',
  description: 'OpenAPI 3.1, made from the schemas that the service validates with.',
  answers: [
    json(200, 'The document.', z.looseObject({ openapi: z.string() }), {
      start: { summary: 'Its beginning', value: { openapi: '3.1.1' } },
    }),
  ],
  problems: [],
};

const page = (id: string, summary: string, description: string): Description => ({
  id,
  tag: 'Operation',
  summary,
  description,
  answers: [
    { status: 200, description: 'The page.', content: [{ mediaType: 'text/html', text: '<!doctype html>' }] },
  ],
  problems: [],
});

const apiReferenceDescription = page(
  'apiReference',
  'The API reference',
  'This document as a page, to read and to try.',
);

const errorReferenceDescription = page(
  'errorReference',
  'The error reference',
  'Every error code, and what to do about it.',
);

const docsAssetDescription: Description = {
  id: 'docsAsset',
  tag: 'Operation',
  summary: 'Scripts and styles of these pages',
  description: 'Served from here; nothing is loaded from elsewhere.',
  pathParameters: z.object({ name: z.string() }),
  answers: [
    {
      status: 200,
      description: 'The file.',
      content: [
        { mediaType: 'text/javascript', text: '' },
        { mediaType: 'text/css', text: '' },
      ],
    },
  ],
  problems: ['not_found'],
};

/** The API described by itself. It does not change, and is made for the first who asks: most nodes are never asked. */
@Controller()
class DocsController {
  #document: string | undefined;
  readonly #reference = referencePage();
  readonly #errors = errorsPage();
  readonly #assets = loadAssets();

  constructor(private readonly operations: Operations) {}

  @Get('openapi.json')
  @Describe(openApiDescription)
  @Public()
  document(@Res({ passthrough: true }) reply: FastifyReply): string {
    reply.header('content-type', 'application/json; charset=utf-8');
    return (this.#document ??= JSON.stringify(openApiDocument(this.operations.all)));
  }

  @Get('docs')
  @Describe(apiReferenceDescription)
  @Public()
  reference(@Res({ passthrough: true }) reply: FastifyReply): string {
    return asPage(reply, this.#reference);
  }

  @Get('docs/errors')
  @Describe(errorReferenceDescription)
  @Public()
  errors(@Res({ passthrough: true }) reply: FastifyReply): string {
    return asPage(reply, this.#errors);
  }

  /** `no-cache`: a browser keeps its copy and asks whether it is still good, so an upgrade is seen at once. */
  @Get('docs/assets/:name')
  @Describe(docsAssetDescription)
  @Public()
  asset(
    @Param('name') name: string,
    @Headers('if-none-match') known: string | undefined,
    @Res({ passthrough: true }) reply: FastifyReply,
  ): Buffer | undefined {
    const asset = this.#assets.get(name);
    if (asset === undefined) throw new Problem('not_found', 'There is no such file.');
    reply.headers({ etag: asset.etag, 'cache-control': 'no-cache', 'x-content-type-options': 'nosniff' });
    if (known === asset.etag) {
      reply.status(304);
      return undefined;
    }
    reply.header('content-type', asset.mediaType);
    return asset.content;
  }
}

function asPage(reply: FastifyReply, html: string): string {
  reply.headers({
    'content-type': 'text/html; charset=utf-8',
    'content-security-policy': CONTENT_SECURITY_POLICY,
    'x-content-type-options': 'nosniff',
    'referrer-policy': 'no-referrer',
  });
  return html;
}

@Module({ imports: [DiscoveryModule], controllers: [DocsController], providers: [Operations] })
export class DocsModule {}
