import { Body, Controller, HttpCode, Injectable, Post, Query } from '@nestjs/common';
import { z } from 'zod';
import { CurrentPrincipal, type Principal, RouteSettings, UserOnly } from '../http/access.ts';
import { PaidFrom } from '../auth/budgets.ts';
import { Problem } from '../core/errors.ts';
import {
  DEFAULT_DEVICE,
  type TenantId,
  type DeviceId,
  type Topic,
  type UserId,
  deviceIdSchema,
} from '../core/identifiers.ts';
import { parseBody, refuseQuery } from '../http/json-body.ts';
import { KeyedBatcher } from '../concurrency/batcher.ts';
import { Metrics } from '../telemetry/metrics.ts';
import { databaseUnavailable, isUnavailable, repeatedOnLoss } from '../postgres/errors.ts';
import { Describe, DATABASE_PROBLEMS, type Description } from '../http/description.ts';
import { ClientPool } from '../postgres/pools.ts';
import { Partitions } from '../log/partitions.ts';
import { sentPosition, type Position } from '../core/position.ts';
import type { Statement } from '../postgres/pool.ts';
import { CLASS_WIDTHS, withinPartitions } from './intervals.ts';

/** The body of an acknowledgement. */
const ackSchema = z
  .strictObject({
    upTo: sentPosition('is a position: the `id:` of an event of the stream').meta({
      description:
        'The position of the last notification that the device has taken over; all before it are confirmed too.',
    }),
    device: deviceIdSchema
      .optional()
      .meta({ description: 'Default: `default`. The `device` claim of the token wins.' }),
  })
  .meta({ id: 'Acknowledgement' });

const acknowledgeDescription: Description = {
  id: 'acknowledge',
  tag: 'Stream',
  summary: 'Confirm what a device has received',
  description: `Moves the cursor of the device to \`upTo\` and confirms everything that was addressed to it until
there. Cumulative, never backwards, harmless when repeated. Committed before it is answered.`,
  body: {
    schema: ackSchema,
    examples: {
      default: { summary: 'The default device', value: { upTo: '890123456789504' } },
      phone: { summary: 'A device with a name', value: { upTo: '890123456789504', device: 'phone' } },
    },
  },
  answers: [{ status: 204, description: 'Confirmed.' }],
  problems: [
    'position_unknown',
    'device_unknown',
    'too_many_requests',
    'overloaded',
    ...DATABASE_PROBLEMS,
    'keys_unavailable',
  ],
};

/** A device says that it has everything addressed to it up to and including `upTo`. */
export interface Ack {
  readonly user: UserId;
  readonly device: DeviceId;
  readonly upTo: Position;
  /** The topics of its token: they say what was addressed to it. */
  readonly topics: readonly Topic[];
}

/** `ahead`: nothing at that position has been published yet. `device_unknown`: the device never opened a stream. */
export type AckResult = 'confirmed' | 'ahead' | 'device_unknown';

/*
 * The rules of devices.store.ts hold here too: rows are locked in key order and through their key, the cursor comes
 * from the locked row alone, acknowledgements of one device in one batch are steps of one walk, and the cursor is
 * written through the conflict. A tenant that has no log yet has an empty one, so that everything is ahead of it.
 * `stored_to` is where the interval ends in the table (intervals.ts). It begins with the log of the tenant at the earliest.
 */
const ACKNOWLEDGE: Statement = {
  name: 'acknowledge',
  text: `
with ack as materialized (
  select n, user_id collate "C" as user_id, device_id collate "C" as device_id, topics, up_to, stored_to
  from json_to_recordset($2) as a (n int, user_id text, device_id text, topics text[], up_to bigint, stored_to bigint)
), log as materialized (
  select coalesce(max(head), 0) as head, coalesce(max(floor), 0) as floor,
    coalesce(max(beginning), 0) as beginning
  from tenant_logs where tenant_id = $1
), known as materialized (
  select device.user_id, device.device_id, device.cursor
  from (select distinct user_id, device_id from ack order by user_id, device_id) a
  cross join lateral (
    select d.user_id, d.device_id, d.cursor from devices d
    where d.tenant_id = $1 and d.user_id = a.user_id and d.device_id = a.device_id
    for update
  ) device
), step as materialized (
  select a.*, s.floor, s.beginning, k.cursor,
    greatest(k.cursor, max(a.up_to) over (
      partition by a.user_id, a.device_id order by a.n rows between unbounded preceding and 1 preceding
    )) as before
  from ack a
  join known k on k.user_id = a.user_id and k.device_id = a.device_id
  cross join log s
  where a.up_to <= s.head
), moved as (
  insert into devices (tenant_id, user_id, device_id, cursor)
  select $1, user_id, device_id, max(up_to) from step where up_to > cursor
  group by user_id, device_id order by user_id, device_id
  on conflict (tenant_id, user_id, device_id) do update set cursor = excluded.cursor
), confirmed as (
  insert into acks (tenant_id, user_id, device_id, from_position, to_position, width_class, by_resume, topics)
  select $1, user_id, device_id, first, stored_to, width_bucket(stored_to - first - 1, $3::bigint[]), false, topics
  from (select *, greatest(before, beginning) as first from step) s where stored_to > first and stored_to > floor
)
select a.n, case when a.up_to > s.head then 'ahead' when k.user_id is null then 'device_unknown' else 'confirmed' end as result
from ack a
cross join log s
left join known k on k.user_id = a.user_id and k.device_id = a.device_id
order by a.n`,
};

/** Acknowledgements: they move the cursor of a device and say what was delivered to it. */
@Injectable()
export class AcksStore {
  constructor(
    private readonly pool: ClientPool,
    private readonly partitions: Partitions,
  ) {}

  /** Cumulative, idempotent, never backwards. The results are in the order of `acks`, and on disk when this returns. */
  async acknowledge(tenantId: TenantId, acks: readonly Ack[]): Promise<AckResult[]> {
    const ends = acks.map(({ upTo }) => upTo);
    const rows = await withinPartitions(this.partitions, 'acks', ends, (stored) => {
      const confirmations = acks.map(({ user, device, upTo, topics }, n) => ({
        n,
        user_id: user,
        device_id: device,
        up_to: upTo,
        stored_to: stored[n],
        topics,
      }));
      return this.pool.rows<{ result: AckResult }>(tenantId, ACKNOWLEDGE, [
        JSON.stringify(confirmations),
        CLASS_WIDTHS,
      ]);
    });
    return rows.map(({ result }) => result);
  }
}

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
      const results = await repeatedOnLoss(() => this.store.acknowledge(tenantId, acks));
      this.metrics.acknowledgements.inc(results.filter((result) => result === 'confirmed').length);
      return results;
    } catch (error) {
      throw isUnavailable(error) ? databaseUnavailable(error) : error;
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
