import { Module, Controller, Headers, Inject, Post, Req, Res, Body } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { CurrentPrincipal, type Principal, RequireScope, RouteSettings } from '../http/access.ts';
import { CONFIG, type Config, Draining } from '../core/config.ts';
import { DatabaseClock } from '../postgres/clock.ts';
import { Problem } from '../core/errors.ts';
import { asJsonBody, refuseQuery } from '../http/json-body.ts';
import { parseTraceparent } from '../telemetry/logging.ts';
import { Ingest } from '../log/ingest.ts';
import { IdempotencyRecords } from '../log/idempotency.ts';
import type { Stored } from '../core/notification.ts';
import { asPosition, createdAt } from '../core/position.ts';
import { Metrics } from '../telemetry/metrics.ts';
import { Tenants, TenantsModule } from '../tenants/tenants.ts';
import {
  checkRights,
  fingerprintOf,
  idempotencyKeySchema,
  type PublishRoute,
  readEnvelope,
  readPublication,
} from './publication.ts';
import { PublishAdmission, RejectionThrottle } from './publish-admission.ts';
import { Describe } from '../http/description.ts';
import { publishNotificationDescription, publishBatchDescription } from './publish.openapi.ts';

@Controller('v1/notifications')
export class PublishController {
  constructor(
    private readonly ingest: Ingest,
    private readonly records: IdempotencyRecords,
    private readonly admission: PublishAdmission,
    private readonly draining: Draining,
    private readonly clock: DatabaseClock,
    private readonly metrics: Metrics,
    private readonly tenants: Tenants,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  @Post()
  @Describe(publishNotificationDescription)
  @RouteSettings({ publishes: true })
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
  @Describe(publishBatchDescription)
  @RouteSettings({ publishes: true })
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
      const { tenantId, subject: publisher } = principal;
      const key = readKey(headers['idempotency-key']);
      const idempotency =
        key === undefined ? undefined : { publisher, key, fingerprint: fingerprintOf(route, body.bytes) };
      const envelope = await readEnvelope(route, body);
      await this.admission.afterCounting(tenantId, envelope.asked, idempotency);
      const trace = parseTraceparent(headers['traceparent'])?.header ?? null;
      const { drafts, users, refusal, broadcasts } = await readPublication(
        route,
        body,
        envelope,
        trace,
        this.clock.now(),
        this.config,
        this.tenants.limits(tenantId),
      );
      checkRights(principal, broadcasts);

      // A key that was used is answered as it was, also when limits, expiry or a shutdown would refuse it by now.
      const refused =
        refusal ??
        (this.draining.active
          ? new Problem('draining', 'This node is shutting down.', { retryAfter: 1 })
          : undefined);
      const stored =
        refused === undefined
          ? await this.ingest.publish(tenantId, { publisher, drafts, idempotency })
          : idempotency && (await this.records.storedOrUnderWay(tenantId, idempotency));
      if (stored === undefined) throw refused ?? new Error('nothing was stored and nothing was refused');
      if (stored.replayed) reply.header('idempotency-replayed', 'true');
      this.metrics.publishRequests.inc({ result: stored.replayed ? 'replayed' : 'stored' });
      return { stored, users };
    } catch (error) {
      this.admission.failed(principal.tenantId, error);
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

@Module({
  imports: [TenantsModule],
  controllers: [PublishController],
  providers: [PublishAdmission, RejectionThrottle],
})
export class PublishingModule {}
