import { Body, Controller, HttpCode, Injectable, Post, Query } from '@nestjs/common';
import { CurrentPrincipal, type Principal, RouteSettings, UserOnly } from '../http/access.ts';
import { PaidFrom } from '../auth/budgets.ts';
import { Problem } from '../core/errors.ts';
import { DEFAULT_DEVICE, type TenantId } from '../core/identifiers.ts';
import { parseBody, refuseQuery } from '../http/json-body.ts';
import { KeyedBatcher } from '../concurrency/batcher.ts';
import { Metrics } from '../telemetry/metrics.ts';
import { AcksStore, type Ack, type AckResult } from './acknowledgements.store.ts';
import { databaseUnavailable, isConnectionLoss, isNeverSent, isUnavailable } from '../postgres/errors.ts';
import { Describe } from '../http/description.ts';
import { ackSchema, acknowledgeDescription } from './acknowledgements.openapi.ts';

/** Acknowledgements that one statement stores. */
const AT_ONCE = 1_000;
/** Acknowledgements of one tenant that may wait on this node: a few statements' worth. */
const MOST_WAITING = 10_000;

/** Stores acknowledgements: per tenant, while one statement is under way the next collects. */
@Injectable()
export class Acknowledgements {
  readonly #tenants = new KeyedBatcher<TenantId, Ack, AckResult>(
    (tenantId, acks) => this.#store(tenantId, acks),
    { atOnce: AT_ONCE },
  );

  constructor(
    private readonly store: AcksStore,
    private readonly metrics: Metrics,
  ) {}

  /**
   * Moves the cursor of a device and confirms what was addressed to it. On disk when the promise resolves.
   * @throws Problem `overloaded` or `database_unavailable` (503)
   */
  async acknowledge(tenantId: TenantId, ack: Ack): Promise<AckResult> {
    if (this.#tenants.pending(tenantId) >= MOST_WAITING) {
      throw new Problem('overloaded', 'Too many acknowledgements wait to be stored on this node.', {
        retryAfter: 1,
      });
    }
    return await this.#tenants.request(tenantId, ack);
  }

  async #store(tenantId: TenantId, acks: readonly Ack[]): Promise<AckResult[]> {
    try {
      const results = await this.#storeOrRepeat(tenantId, acks);
      this.metrics.acknowledgements.inc(results.filter((result) => result === 'confirmed').length);
      return results;
    } catch (error) {
      throw isUnavailable(error) ? databaseUnavailable(error) : error;
    }
  }

  /** A connection that dies under the statement leaves open whether it was committed; to run it again does no harm either way. */
  async #storeOrRepeat(tenantId: TenantId, acks: readonly Ack[]): Promise<AckResult[]> {
    try {
      return await this.store.acknowledge(tenantId, acks);
    } catch (error) {
      if (!isConnectionLoss(error) || isNeverSent(error)) throw error;
      return await this.store.acknowledge(tenantId, acks);
    }
  }
}

@Controller('v1/acks')
export class AcksController {
  constructor(private readonly acknowledgements: Acknowledgements) {}

  /** Answers after the commit. */
  @Post()
  @Describe(acknowledgeDescription)
  @RouteSettings({ bodyBytes: 1_024 })
  @HttpCode(204)
  @UserOnly()
  @PaidFrom('acknowledgements')
  async acknowledge(
    @CurrentPrincipal() principal: Principal,
    @Query() query: unknown,
    @Body() body: unknown,
  ): Promise<void> {
    refuseQuery(query);
    const { upTo, device: named } = parseBody(ackSchema, body);
    const { tenantId, subject: user, topics } = principal;
    const device = principal.device ?? named ?? DEFAULT_DEVICE;
    const result = await this.acknowledgements.acknowledge(tenantId, { user, device, upTo, topics });
    if (result === 'ahead')
      throw new Problem('position_unknown', 'Nothing has been published at this position yet.', {
        errors: [{ pointer: '/upTo', detail: 'is ahead of the log' }],
      });
    if (result === 'device_unknown')
      throw new Problem('device_unknown', `The device ${device} of this user has never opened a stream.`);
  }
}
