import { Controller, Get, Headers, Param, Res } from '@nestjs/common';
import type { FastifyReply } from 'fastify';
import { Public } from '../http/access.ts';
import { Problem } from '../core/errors.ts';
import { loadAssets } from './assets.ts';
import { openApiDocument } from './openapi.ts';
import { CONTENT_SECURITY_POLICY, errorsPage, referencePage } from './pages.ts';

/** The API described by itself. Everything is made at start and does not change. */
@Controller()
export class DocsController {
  readonly #document = JSON.stringify(openApiDocument());
  readonly #reference = referencePage();
  readonly #errors = errorsPage();
  readonly #assets = loadAssets();

  @Get('openapi.json')
  @Public()
  document(@Res({ passthrough: true }) reply: FastifyReply): string {
    reply.header('content-type', 'application/json; charset=utf-8');
    return this.#document;
  }

  @Get('docs')
  @Public()
  reference(@Res({ passthrough: true }) reply: FastifyReply): string {
    return asPage(reply, this.#reference);
  }

  @Get('docs/errors')
  @Public()
  errors(@Res({ passthrough: true }) reply: FastifyReply): string {
    return asPage(reply, this.#errors);
  }

  /** `no-cache`: a browser keeps its copy and asks whether it is still good, so an upgrade is seen at once. */
  @Get('docs/assets/:name')
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
