import { Injectable } from '@nestjs/common';
import { beingErased } from '../postgres/erased.ts';
import { ClientPool } from '../postgres/pools.ts';
import type { DeviceId, TenantId, Topic, UserId } from '../core/identifiers.ts';
import { Partitions } from '../log/partitions.ts';
import { asPosition, START, type Position } from '../core/position.ts';
import { CLASS_WIDTHS, withinPartitions } from './intervals.ts';
import { type Statement } from '../postgres/pool.ts';

/** Where a stream without a resume position starts. */
export type StartFrom = 'undelivered' | 'latest' | 'earliest';

/** A device that opens a stream. */
export interface DeviceRegistration {
  readonly user: UserId;
  readonly device: DeviceId;
  /** The topics of its token. */
  readonly topics: readonly Topic[];
  /** The last position that it has, if it sent one that can be read. */
  readonly resume: Position | undefined;
  /** It sent a position that cannot be read. */
  readonly malformed: boolean;
  readonly from: StartFrom;
  /** How many devices its user may have. One that is there is let in, however many there are. */
  readonly mostDevices: number;
}

/** Where its stream starts, and why. */
export interface Registered {
  /** The cursor of the device afterwards. */
  readonly cursor: Position;
  readonly head: Position;
  /** What is at or before the floor is not kept any more. */
  readonly floor: Position;
  /** The stream holds everything after this position. */
  readonly start: Position;
  readonly outcome: StartFrom | 'exact' | 'gap' | 'reset';
  /**
   * Set when something between this position and `start` is not kept any more: with every `gap`, and with a `reset`
   * whose device has a cursor below the floor.
   */
  readonly requested?: Position;
  /** When the database was asked, by its clock, in ms since 1970. */
  readonly at: number;
}

/** Why a device was not registered: its user has as many as the limit, or the data of its user is being erased. */
export type RegistrationRefusal = 'too-many-devices' | 'being-erased';

/*
 * One statement for a crowd, since thousands of clients come back in the same second. What shapes it:
 *
 * - `known` locks the rows of the devices, in key order as every other statement does, because acknowledgement
 *   intervals of a device must not overlap: whoever holds the lock reads the cursor that the last holder left. Only
 *   this CTE sees that row; everything else, `head` too, comes from the snapshot of the statement's start. So a cursor
 *   may be ahead of `head` here, and nobody may read a cursor from `devices` again. The lateral sub-select is found
 *   through the primary key whatever the planner believes about the number of rows.
 * - All locks are taken before the first row is inserted (that is what `count(*)` waits for): an insert may have to
 *   wait for a duplicate, and who waits must not go on to take locks out of order.
 * - Tabs of one device that arrive together are steps of one walk: each continues from where those before it got to.
 * - `moved` writes through the conflict, which finds the row by its key and in its newest version; an update with a
 *   join would leave the way there to the planner. Its rows are locked already.
 * - `created` gets no row back where another node created the device since the snapshot. Nothing in this statement can
 *   see that row. Those devices come back unsettled, without any effect, and run again in a statement of their own.
 * - The cursor of a new device comes from the acknowledgements, not from the cursors, of the user's other devices:
 *   a cursor that `latest` moved has skipped what nobody has seen. One row per device, the newest, is read.
 * - An interval that ends at or below the floor covers nothing that is kept. `stored_to` is where it ends in the table
 *   (intervals.ts); it begins with the log of the tenant at the earliest, since nothing was ever stored before.
 * - Nobody gets a device while their data is being erased: it would go with the rest, and its stream would stay.
 * - A device that would be one too many has no effect. Where two nodes make devices of one user at the same time, neither
 *   counts those of the other; but both begin with the same ordinal, and of duplicates one is stored. The other comes back
 *   unsettled, as above, and is counted again. They are inserted in the order of their ordinals, so that whoever waits for
 *   a duplicate has made none yet that the duplicate could wait for.
 */
const REGISTER: Statement = {
  name: 'register_devices',
  text: `
with opening as materialized (
  select n, user_id collate "C" as user_id, device_id collate "C" as device_id, topics, resume, stored_to, latest, most,
    ${beingErased('a.user_id')} as held
  from json_to_recordset($2) as a (n int, user_id text, device_id text, topics text[], resume bigint, stored_to bigint, latest boolean, most int)
), registration as materialized (
  select * from opening where not held
), log as materialized (
  select head, floor, beginning from tenant_logs where tenant_id = $1
), known as materialized (
  select device.user_id, device.device_id, device.cursor
  from (select distinct user_id, device_id from registration order by user_id, device_id) a
  cross join lateral (
    select d.user_id, d.device_id, d.cursor from devices d
    where d.tenant_id = $1 and d.user_id = a.user_id and d.device_id = a.device_id
    for update
  ) device
), candidate as materialized (
  select a.*, s.head, s.floor, s.beginning, k.cursor is not null as known,
    case when k.cursor is not null then k.cursor else coalesce((
      select max(newest.to_position)
      from devices other
      cross join lateral (
        select c.to_position from acks c
        where c.tenant_id = $1 and c.user_id = other.user_id and c.device_id = other.device_id
        order by c.to_position desc limit 1
      ) newest
      where other.tenant_id = $1 and other.user_id = a.user_id
    ), s.floor) end as origin,
    coalesce(a.resume <= s.head, false) as resumed,
    case when a.resume <= s.head then a.resume when a.latest then s.head end as target
  from registration a
  cross join log s
  left join known k on k.user_id = a.user_id and k.device_id = a.device_id
  where (select count(*) from known) >= 0
), step as materialized (
  select *, greatest(origin, max(target) over earlier) as before, greatest(origin, max(target) over so_far) as cursor,
    lead(n) over so_far is null as last
  from candidate
  window earlier as (partition by user_id, device_id order by n rows between unbounded preceding and 1 preceding),
    so_far as (partition by user_id, device_id order by n rows between unbounded preceding and current row)
), moved as (
  insert into devices (tenant_id, user_id, device_id, cursor, topics)
  select $1, user_id, device_id, cursor, topics from step where known and last
  order by user_id, device_id
  on conflict (tenant_id, user_id, device_id)
    do update set cursor = excluded.cursor, topics = excluded.topics, last_seen_at = excluded.last_seen_at
), newcomer as materialized (
  select device.user_id, device.device_id, counted.last + device.nth as ordinal,
    counted.devices + device.nth > device.most as excess
  from (
    select user_id, device_id, max(most) as most, row_number() over (partition by user_id order by min(n)) as nth
    from candidate where not known group by user_id, device_id
  ) device
  cross join lateral (
    select count(*) as devices, coalesce(max(d.ordinal), 0) as last from devices d
    where d.tenant_id = $1 and d.user_id = device.user_id
  ) counted
), created as (
  insert into devices (tenant_id, user_id, device_id, cursor, topics, ordinal)
  select $1, s.user_id, s.device_id, s.cursor, s.topics, new.ordinal
  from step s join newcomer new on new.user_id = s.user_id and new.device_id = s.device_id
  where s.last and not new.excess
  order by s.user_id, new.ordinal
  on conflict do nothing
  returning user_id, device_id
), settled as materialized (
  select s.*, new.excess is true as excess, s.known or c.user_id is not null as settled
  from step s
  left join newcomer new on new.user_id = s.user_id and new.device_id = s.device_id
  left join created c on c.user_id = s.user_id and c.device_id = s.device_id
), confirmed as (
  insert into acks (tenant_id, user_id, device_id, from_position, to_position, width_class, by_resume, topics)
  select $1, user_id, device_id, first, stored_to, width_bucket(stored_to - first - 1, $3::bigint[]), true, topics
  from (select *, greatest(before, beginning) as first from settled) s
  where settled and resumed and stored_to > first and stored_to > floor
)
select n, settled, case when excess then 'too-many-devices' end as refused, cursor, head, floor, (extract(epoch from clock_timestamp()) * 1000)::float8 as at from settled
union all
select n, false, 'being-erased', floor, head, floor, 0 from opening cross join log where held`,
};

/** The tenant has no log yet. */
export class TenantUnknown extends Error {
  override readonly name = 'TenantUnknown';

  constructor(tenantId: TenantId) {
    super(`There is no log of tenant ${tenantId}.`);
  }
}

interface Row {
  n: number;
  settled: boolean;
  refused: RegistrationRefusal | null;
  cursor: Position;
  head: Position;
  floor: Position;
  at: number;
}

/** Devices that open streams: their cursors, and what a resume confirms. */
@Injectable()
export class DevicesStore {
  constructor(
    private readonly pool: ClientPool,
    private readonly partitions: Partitions,
  ) {}

  /**
   * Registers devices that open streams and says where each stream starts, in the order of `devices`. Running it
   * again after a lost connection is harmless. The tenant log must exist.
   */
  async register(
    tenantId: TenantId,
    devices: readonly DeviceRegistration[],
  ): Promise<(Registered | RegistrationRefusal)[]> {
    const registered = new Map<number, Registered | RegistrationRefusal>();
    // Every round settles all but those whose device, or another of the same user, was created by others meanwhile; the
    // next round sees that device.
    while (registered.size < devices.length) {
      const rows = await this.#registerOnce(tenantId, devices, (n) => !registered.has(n));
      if (rows.length === 0) throw new TenantUnknown(tenantId);
      for (const row of rows) {
        const device = devices[row.n];
        if (row.refused !== null) registered.set(row.n, row.refused);
        else if (row.settled && device !== undefined) registered.set(row.n, place(device, row));
      }
    }
    return [...registered].toSorted(([a], [b]) => a - b).map(([, answer]) => answer);
  }

  async #registerOnce(
    tenantId: TenantId,
    devices: readonly DeviceRegistration[],
    open: (n: number) => boolean,
  ): Promise<Row[]> {
    const wanted = devices
      .map(({ user, device, topics, resume, malformed, from, mostDevices }, n) => ({
        n,
        user_id: user,
        device_id: device,
        topics,
        resume: malformed ? undefined : resume,
        latest: from === 'latest',
        most: mostDevices,
      }))
      .filter(({ n }) => open(n));
    const ends = wanted.map(({ resume }) => resume ?? START);
    return await withinPartitions(this.partitions, 'acks', ends, (stored) => {
      const openings = wanted.map((one, index) => ({ ...one, stored_to: stored[index] }));
      return this.pool.rows<Row>(tenantId, REGISTER, [JSON.stringify(openings), CLASS_WIDTHS]);
    });
  }
}

/** Where a stream starts. A position at the floor is no gap: what follows it is all kept. */
function place(device: DeviceRegistration, { cursor, head, floor, at }: Row): Registered {
  const { resume, malformed, from } = device;
  // The cursor may have been read after the head, and never passes what was in the log.
  const known = { cursor, head: asPosition(Math.max(head, cursor)), floor, at };
  if (resume !== undefined && !malformed && resume <= head) {
    if (resume < floor) return { ...known, start: floor, outcome: 'gap', requested: resume };
    return { ...known, start: resume, outcome: 'exact' };
  }
  const reset = malformed || resume !== undefined;
  if (from === 'latest') return { ...known, start: head, outcome: reset ? 'reset' : 'latest' };
  if (from === 'earliest') return { ...known, start: floor, outcome: reset ? 'reset' : 'earliest' };
  if (cursor < floor) return { ...known, start: floor, outcome: reset ? 'reset' : 'gap', requested: cursor };
  return { ...known, start: cursor, outcome: reset ? 'reset' : 'undelivered' };
}
