import { Controller, Headers, Inject, Post, Req, Res, Body } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { RequireScope, CurrentPrincipal } from '../auth/access.decorator.ts';
import type { Principal } from '../auth/principal.ts';
import { CONFIG, type Config } from '../config.ts';
import { DatabaseClock } from '../database/clock.ts';
import { Problem } from '../errors.ts';
import { Draining } from '../health/draining.ts';
import { asJsonBody, refuseQuery } from '../json-body.ts';
import { parseTraceparent } from '../logging/traceparent.ts';
import { Ingest, type Stored } from '../log/ingest.ts';
import { asPosition, createdAt } from '../log/position.ts';
import { Metrics } from '../metrics/metrics.ts';
import { Tenants } from '../tenants/tenants.ts';
import { checkRights } from './publisher-rights.ts';
import { fingerprintOf, readPublication, type PublishRoute } from './publication.ts';
import { idempotencyKeySchema } from './publish.schema.ts';

@Controller('v1/notifications')
export class PublishController {
  constructor(
    private readonly ingest: Ingest,
    private readonly draining: Draining,
    private readonly clock: DatabaseClock,
    private readonly metrics: Metrics,
    private readonly tenants: Tenants,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  @Post()
  @RequireScope('notifications:publish')
  async publish(
    @CurrentPrincipal() principal: Principal,
    @Req() request: FastifyRequest,
    @Res({ passthrough: true }) reply: FastifyReply,
    @Body() body: unknown,
    @Headers() headers: Record<string, string | undefined>,
  ) {
    const { stored, users } = await this.#store('single', principal, request, reply, body, headers);
    const answers = answersOf(stored);
    if (users !== undefined)
      return { notifications: answers.map((answer, index) => ({ ...answer, user: users[index] })) };
    const [answer] = answers;
    reply.header('location', `/v1/notifications/${answer?.id}`);
    return answer;
  }

  @Post('batch')
  @RequireScope('notifications:publish')
  async publishBatch(
    @CurrentPrincipal() principal: Principal,
    @Req() request: FastifyRequest,
    @Res({ passthrough: true }) reply: FastifyReply,
    @Body() body: unknown,
    @Headers() headers: Record<string, string | undefined>,
  ) {
    const { stored } = await this.#store('batch', principal, request, reply, body, headers);
    return { notifications: answersOf(stored) };
  }

  async #store(
    route: PublishRoute,
    principal: Principal,
    request: FastifyRequest,
    reply: FastifyReply,
    rawBody: unknown,
    headers: Record<string, string | undefined>,
  ) {
    try {
      refuseQuery(request.query);
      const body = asJsonBody(rawBody);
      const key = readKey(headers['idempotency-key']);
      const trace = parseTraceparent(headers['traceparent'])?.header ?? null;
      const { drafts, users, refusal, wide } = readPublication(
        route,
        body,
        trace,
        this.clock.now(),
        this.config,
        this.tenants.limits(principal.tenantId),
      );
      checkRights(principal, wide);
      const { tenantId, subject: publisher } = principal;
      const idempotency =
        key === undefined ? undefined : { publisher, key, fingerprint: fingerprintOf(route, body.bytes) };
      const publication = { publisher, drafts, idempotency };

      // A key that was used is answered as it was, also when limits, expiry or a shutdown would refuse it by now.
      const refused =
        refusal ??
        (this.draining.active
          ? new Problem('draining', 'This node is shutting down.', { retryAfter: 1 })
          : undefined);
      const stored =
        refused === undefined
          ? await this.ingest.publish(tenantId, publication)
          : await this.ingest.recall(tenantId, publication);
      if (stored === undefined) throw refused ?? new Error('nothing was stored and nothing was refused');
      if (stored.replayed) reply.header('idempotency-replayed', 'true');
      this.metrics.publishRequests.inc({ result: stored.replayed ? 'replayed' : 'stored' });
      return { stored, users };
    } catch (error) {
      this.metrics.publishRequests.inc({
        result: error instanceof Problem && error.status < 500 ? 'refused' : 'unavailable',
      });
      throw error;
    }
  }
}

function readKey(header: string | undefined): string | undefined {
  if (header === undefined) return undefined;
  const parsed = idempotencyKeySchema.safeParse(header);
  if (parsed.success) return parsed.data;
  throw new Problem('validation_failed', 'The Idempotency-Key is not valid.', {
    errors: [{ pointer: '/Idempotency-Key', detail: 'has 1 to 255 visible ASCII characters' }],
  });
}

function answersOf({ ids, first }: Stored) {
  return ids.map((id, index) => {
    const position = asPosition(first + index);
    return { id, position: String(position), createdAt: createdAt(position) };
  });
}
