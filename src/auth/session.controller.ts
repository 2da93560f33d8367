import { Body, Controller, Delete, Header, HttpCode, Inject, Post, Query, Req, Res } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';
import { CONFIG, type Config } from '../core/config.ts';
import { Problem } from '../core/errors.ts';
import type { TenantId } from '../core/identifiers.ts';
import { parseBody, refuseQuery } from '../http/json-body.ts';
import { CurrentPrincipal, type Principal, Public, RouteSettings, UserOnly } from '../http/access.ts';
import { Tenants } from '../tenants/tenants.ts';
import { Describe, type Description } from '../http/description.ts';
import {
  bearerToken,
  comesFromPage,
  endSession,
  mayUseCookie,
  MOST_COOKIE_BYTES,
  originRefused,
  sessionToken,
  setSession,
  tokenMissing,
} from './credentials.ts';
import { Tokens } from './tokens.ts';

/** The body of `POST /v1/session`, if there is one: everything is in the token. */
const sessionSchema = z.strictObject({}).meta({ id: 'SessionRequest' });

const beginSessionDescription: Description = {
  id: 'beginSession',
  tag: 'Stream',
  summary: 'Put the token into a cookie',
  description: `Sets \`__Host-tidings\` to the bearer token of this request, until that token ends: \`HttpOnly\`, \`Secure\`,
\`SameSite\` as \`COOKIE_SAME_SITE\` says. From then on the browser sends it by itself, also with an \`EventSource\`. It does
for routes of users, and only from pages of this host or of an origin that the tenant allows.

A token that makes a cookie of more than 4096 bytes is refused, since browsers would not keep it.`,
  body: {
    schema: sessionSchema,
    required: false,
    examples: { default: { summary: 'Nothing', value: {} } },
  },
  answers: [{ status: 204, description: 'The cookie is set.', headers: ['Set-Cookie'] }],
  problems: ['keys_unavailable'],
};

const endSessionDescription: Description = {
  id: 'endSession',
  tag: 'Stream',
  summary: 'Remove the cookie',
  description: `Also when the token in it has ended. Streams that are open stay open until their token ends; to end
them at once, revoke the token.`,
  answers: [{ status: 204, description: 'The cookie is removed.', headers: ['Set-Cookie'] }],
  problems: ['validation_failed', 'origin_refused'],
};

/** Puts the token of a user into a cookie that no script can read, and takes it out again. */
@Controller('v1/session')
export class SessionController {
  constructor(
    private readonly tokens: Tokens,
    private readonly tenants: Tenants,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  @Post()
  @Describe(beginSessionDescription)
  @RouteSettings({ bodyBytes: 1_024 })
  @HttpCode(204)
  @UserOnly({ clockTolerance: false })
  @Header('cache-control', 'no-store')
  begin(
    @CurrentPrincipal() { tenantId, expiresAt }: Principal,
    @Query() query: unknown,
    @Body() body: unknown,
    @Req() { headers, raw }: FastifyRequest,
    @Res({ passthrough: true }) reply: FastifyReply,
  ): void {
    refuseQuery(query);
    if (body !== undefined) parseBody(sessionSchema, body);
    const token = bearerToken(raw.rawHeaders);
    if (token === undefined) throw tokenMissing();
    // A page of another tenant could log its visitors in as somebody else, and read what they do.
    if (
      comesFromPage(headers) &&
      !mayUseCookie(headers, (origin) => this.tenants.allowsOrigin(tenantId, origin))
    )
      throw originRefused();
    const maxAge = Math.floor((expiresAt - Date.now()) / 1000);
    const cookie = setSession(token, maxAge, this.config.COOKIE_SAME_SITE);
    if (cookie.length > MOST_COOKIE_BYTES) throw tooLong(cookie.length);
    void reply.header('set-cookie', cookie);
  }

  /** Needs no token: whoever wants to leave need not prove who is leaving, and the token may have ended. */
  @Delete()
  @Describe(endSessionDescription)
  @HttpCode(204)
  @Public()
  @Header('cache-control', 'no-store')
  async end(
    @Query() query: unknown,
    @Req() request: FastifyRequest,
    @Res({ passthrough: true }) reply: FastifyReply,
  ): Promise<void> {
    refuseQuery(query);
    const { headers } = request;
    const tenantId = await this.#tenantOf(request);
    const allows = (origin: string) =>
      tenantId === undefined
        ? this.tenants.allowsOriginSomewhere(origin)
        : this.tenants.allowsOrigin(tenantId, origin);
    // A page of another tenant could log its visitors out.
    if (comesFromPage(headers) && !mayUseCookie(headers, allows)) throw originRefused();
    void reply.header('set-cookie', endSession(this.config.COOKIE_SAME_SITE));
  }

  /** Undefined: nobody is logged in (any more). */
  async #tenantOf({ raw }: FastifyRequest): Promise<TenantId | undefined> {
    try {
      const token = sessionToken(raw.rawHeaders);
      return token === undefined ? undefined : (await this.tokens.verify(token)).tenantId;
    } catch (error) {
      if (error instanceof Problem) return undefined;
      throw error;
    }
  }
}

function tooLong(bytes: number): Problem {
  const detail = `makes a cookie of ${bytes} bytes; browsers keep ${MOST_COOKIE_BYTES}. Use a stream ticket or a shorter token`;
  return new Problem('validation_failed', 'The token is too long for a cookie.', {
    errors: [{ pointer: '/authorization', detail }],
  });
}
