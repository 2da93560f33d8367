import { Body, Controller, Headers, Inject, Module, Post, Req, Res } from '@nestjs/common';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { RequireScope, CurrentPrincipal } from '../http/access.decorator.ts';
import type { Principal } from '../http/principal.ts';
import { CONFIG, type Config } from '../core/config.ts';
import { DatabaseClock } from '../postgres/clock.ts';
import { Problem } from '../core/errors.ts';
import { Draining } from '../core/draining.ts';
import { asJsonBody, refuseQuery } from '../http/json-body.ts';
import { parseTraceparent } from '../telemetry/traceparent.ts';
import type { TenantId } from '../core/identifiers.ts';
import { Quotas } from '../log/quota.ts';
import type { IdempotencyKey } from '../log/append.store.ts';
import { Ingest } from '../log/ingest.ts';
import { IdempotencyRecords } from '../log/idempotency.ts';
import type { Stored } from '../core/notification.ts';
import { asPosition, createdAt } from '../core/position.ts';
import { Metrics } from '../telemetry/metrics.ts';
import { RouteSettings } from '../http/route-settings.ts';
import { Tenants, TenantsModule } from '../tenants/tenants.ts';
import { checkRights } from './publisher-rights.ts';
import { fingerprintOf, readEnvelope, readPublication, type PublishRoute } from './publication.ts';
import { idempotencyKeySchema } from './publish.schema.ts';
import { isOfLimits, RejectionThrottle } from './rejection-throttle.ts';
import { PublishAdmission } from './publish-admission.ts';

@Controller('v1/notifications')
class PublishController {
  constructor(
    private readonly ingest: Ingest,
    private readonly keys: IdempotencyRecords,
    private readonly accounts: Quotas,
    private readonly refusals: RejectionThrottle,
    private readonly draining: Draining,
    private readonly clock: DatabaseClock,
    private readonly metrics: Metrics,
    private readonly tenants: Tenants,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  @Post()
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
      await this.#requireBalance(tenantId, envelope.asked, idempotency);
      const trace = parseTraceparent(headers['traceparent'])?.header ?? null;
      const { drafts, users, refusal, wide } = await readPublication(
        route,
        body,
        envelope,
        trace,
        this.clock.now(),
        this.config,
        this.tenants.limits(tenantId),
      );
      checkRights(principal, wide);

      // A key that was used is answered as it was, also when limits, expiry or a shutdown would refuse it by now.
      const refused =
        refusal ??
        (this.draining.active
          ? new Problem('draining', 'This node is shutting down.', { retryAfter: 1 })
          : undefined);
      const stored =
        refused === undefined
          ? await this.ingest.publish(tenantId, { publisher, drafts, idempotency })
          : idempotency && (await this.keys.recall(tenantId, idempotency));
      if (stored === undefined) throw refused ?? new Error('nothing was stored and nothing was refused');
      if (stored.replayed) reply.header('idempotency-replayed', 'true');
      this.metrics.publishRequests.inc({ result: stored.replayed ? 'replayed' : 'stored' });
      return { stored, users };
    } catch (error) {
      this.#count(principal, error);
      throw error;
    }
  }

  /** A body that will not be admitted is not worth checking, unless its key was used: then its answer is known. */
  async #requireBalance(tenantId: TenantId, asked: number, key: IdempotencyKey | undefined): Promise<void> {
    const account = await this.accounts.open(tenantId, 1);
    // What no waiting would let pass is a fault of the body, and told as such.
    const passable = asked <= this.tenants.limits(tenantId).burst ? Math.max(1, asked) : 1;
    const refusal = this.accounts.refusal(tenantId, account, passable, 1);
    if (refusal === undefined) return;
    const known = key && (await this.keys.recall(tenantId, key));
    if (known === undefined) throw refusal;
  }

  #count({ tenantId }: Principal, error: unknown): void {
    if (error instanceof Problem && isOfLimits(error)) return this.refusals.note(tenantId);
    const result = error instanceof Problem && error.status < 500 ? 'refused' : 'unavailable';
    this.metrics.publishRequests.inc({ result });
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
