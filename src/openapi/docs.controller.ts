import { Controller, Get, Headers, Module, Param, Res } from '@nestjs/common';
import { DiscoveryModule } from '@nestjs/core';
import type { FastifyReply } from 'fastify';
import { Public } from '../http/access.ts';
import { Problem } from '../core/errors.ts';
import { openApiDocument } from './document.ts';
import { Operations } from './operations.ts';
import { CONTENT_SECURITY_POLICY, errorsPage, loadAssets, referencePage } from './pages.ts';
import { Describe } from '../http/description.ts';
import {
  openApiDescription,
  apiReferenceDescription,
  errorReferenceDescription,
  docsAssetDescription,
} from './docs.openapi.ts';

/** The API described by itself. It does not change, and is made for the first who asks: most nodes are never asked. */
@Controller()
export class DocsController {
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

function asPage(reply: FastifyReply, page: string): string {
  reply.headers({
    'content-type': 'text/html; charset=utf-8',
    'content-security-policy': CONTENT_SECURITY_POLICY,
    'x-content-type-options': 'nosniff',
    'referrer-policy': 'no-referrer',
  });
  return page;
}

@Module({ imports: [DiscoveryModule], controllers: [DocsController], providers: [Operations] })
export class DocsModule {}
