import { Body, Controller, Get, Header, Inject, Post, Query, Req } from '@nestjs/common';
import type { FastifyRequest } from 'fastify';
import { PaidFrom } from '../auth/budgets.ts';
import { CONFIG, type Config } from '../core/config.ts';
import { Problem } from '../core/errors.ts';
import { parseBody, parseQuery, refuseQuery } from '../http/json-body.ts';
import { timePlace, DEFAULT_LIMIT, type Listing, pageOf, readCursor } from '../http/pages.ts';
import {
  MOST_REVOKED,
  Revocations,
  RevocationsStore,
  type RevocationRecord,
  type RevocationRequest,
} from '../auth/revocations.ts';
import { AuditedTransactions } from './audited-transactions.ts';
import { CurrentPrincipal, type Principal, RequireScope } from '../http/access.ts';
import { Describe } from '../http/description.ts';
import {
  listRevocationsDescription,
  revokeDescription,
  newRevocationSchema,
  revocationsQuerySchema,
  type NewRevocation,
} from './revocations.openapi.ts';

/** Tokens that are refused before their time, in the tenant of the caller. */
@Controller('v1/revocations')
export class RevocationsController {
  constructor(
    private readonly revocations: RevocationsStore,
    private readonly inForce: Revocations,
    private readonly transactions: AuditedTransactions,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  @Get()
  @Describe(listRevocationsDescription)
  @Header('cache-control', 'no-store')
  @RequireScope('history:read', 'operations:write')
  async list(@CurrentPrincipal() { tenantId }: Principal, @Query() query: unknown) {
    const { limit = DEFAULT_LIMIT, cursor } = parseQuery(revocationsQuerySchema, query);
    const listing: Listing = [tenantId, 'revocations'];
    const after = readCursor(listing, cursor, timePlace);
    const found = await this.revocations.page(tenantId, after, limit + 1);
    const { items, nextCursor } = pageOf(found, limit, listing, ({ place }) => place);
    return { items: items.map(viewOf), nextCursor };
  }

  @Post()
  @Describe(revokeDescription)
  @Header('cache-control', 'no-store')
  @RequireScope('operations:write')
  @PaidFrom('admin actions')
  async revoke(
    @CurrentPrincipal() principal: Principal,
    @Req() request: FastifyRequest,
    @Body() body: unknown,
  ) {
    refuseQuery(request.query);
    const wanted = requestOf(parseBody(newRevocationSchema, body));
    const { tenantId } = principal;
    const subject = wanted.kind === 'token' ? wanted.jti : wanted.user;
    if (!this.inForce.hasRoom(tenantId, wanted.kind, subject)) throw full(wanted);
    const action = { action: 'revocation.create', tenantId } as const;
    return await this.transactions.perform(principal, request, action, async ({ run }) => {
      const record = await this.revocations.insert(
        run,
        tenantId,
        wanted,
        this.config.MAX_TOKEN_LIFETIME_DAYS,
      );
      if (record === undefined) throw outOfTime(wanted);
      const after = viewOf(record);
      return { result: after, change: { target: record.id, before: null, after } };
    });
  }
}

function requestOf({ token, user, issuedBefore }: NewRevocation): RevocationRequest {
  if (token !== undefined) return { kind: 'token', jti: token.jti, expiresAt: token.expiresAt };
  if (user !== undefined) return { kind: 'user', user, issuedBefore };
  throw new Error('the schema lets nothing else through');
}

function full({ kind }: RevocationRequest): Problem {
  return new Problem(
    'revocations_full',
    kind === 'token'
      ? `The tenant has revoked ${MOST_REVOKED} tokens that have not ended yet: revoke the user of this one.`
      : `The tenant has revoked ${MOST_REVOKED} users: have their issuer changed by its \`revokedBefore\`.`,
  );
}

/** By the database's clock, which only the statement knows. */
function outOfTime({ kind }: RevocationRequest): Problem {
  const fault =
    kind === 'user'
      ? { pointer: '/issuedBefore', detail: 'is not in the future' }
      : {
          pointer: '/token/expiresAt',
          detail: 'is in the future: a token that has ended need not be revoked',
        };
  return new Problem('validation_failed', 'The body is not valid.', { errors: [fault] });
}

function viewOf({ id, revoked, createdAt, expiresAt }: RevocationRecord) {
  return { id, ...revoked, createdAt, expiresAt };
}
