import { Body, Controller, Delete, Header, HttpCode, Inject, Post, Query, Req, Res } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { CONFIG, type Config } from '../core/config.ts';
import { Problem } from '../core/errors.ts';
import type { TenantId } from '../core/identifiers.ts';
import { parseBody, refuseQuery } from '../http/json-body.ts';
import { CurrentPrincipal, type Principal, Public, RouteSettings, UserOnly } from '../http/access.ts';
import { Tenants } from '../tenants/tenants.ts';
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
import { Describe } from '../http/description.ts';
import { beginSessionDescription, endSessionDescription, sessionSchema } from './session.openapi.ts';

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
