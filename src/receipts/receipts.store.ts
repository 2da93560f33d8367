import { Injectable } from '@nestjs/common';
import { wasErased } from '../postgres/erased.ts';
import { CrossTenantPool } from '../postgres/pools.ts';
import type { DeviceId, TenantId, Topic, UserId } from '../core/identifiers.ts';
import { Partitions } from '../log/partitions.ts';
import type { Position } from '../core/position.ts';
import { widthClassOf, withinPartitions } from './intervals.ts';
import { type Statement } from '../postgres/pool.ts';

/** Whose stream did it. When its user was erased after the stream was let in, nothing of it is stored. */
export interface OfStream {
  readonly user: UserId;
  /** When the database let the stream in, by its clock, in ms since 1970. */
  readonly openedAt: number;
}

/** A stream that opened. */
export interface ConnectionOpened extends OfStream {
  /** A UUID. */
  readonly connectionId: string;
  readonly device: DeviceId;
  readonly node: string;
  readonly topics: readonly Topic[];
  /** ms since 1970. */
  readonly since: number;
  /** Where it started. */
  readonly position: Position;
}

export interface ConnectionEnded {
  readonly connectionId: string;
  /** ms since 1970. */
  readonly until: number;
  /** How far it got. */
  readonly position: Position;
  /** Why it ended: the reason of its `bye`, or what happened to its socket. */
  readonly reason: string;
}

/** By `at` everything addressed to the device in (from, to] had been written to this connection. Not empty. */
export interface SendInterval extends OfStream {
  readonly device: DeviceId;
  readonly connectionId: string;
  readonly from: Position;
  readonly to: Position;
  /** ms since 1970. */
  readonly at: number;
  /** Read from the log after the fact, and not written as it was published. */
  readonly replayed: boolean;
}

/** The cursor of a stream with `ack=auto` follows what was written to it. */
export interface CursorMove extends OfStream {
  readonly device: DeviceId;
  readonly position: Position;
}

/* By the clock that judges what an erasure takes, so that none of it comes back with a flush that was under way. */
const timeOf = (ms: string): string => `to_timestamp(${ms} / 1000)`;

const RECORD_CONNECTIONS: Statement = {
  name: 'record_connections',
  text: `
insert into connections (tenant_id, connection_id, user_id, device_id, node, topics, since, position)
select $1, connection_id, user_id, device_id, node, topics, to_timestamp(since / 1000), position
from json_to_recordset($2) as c (
  connection_id uuid, user_id text, device_id text, node text, topics text[], since float8, position bigint, opened_at float8
)
where not ${wasErased('c.user_id', timeOf('c.opened_at'))}
on conflict do nothing`,
};

/* The first end is the true one: a flush that is repeated after a lost connection changes nothing. */
const END_CONNECTIONS: Statement = {
  name: 'end_connections',
  text: `
update connections c set until = to_timestamp(e.until / 1000), position = e.position, reason = e.reason
from unnest($2::uuid[], $3::float8[], $4::bigint[], $5::text[]) as e (connection_id, until, position, reason)
where c.tenant_id = $1 and c.connection_id = e.connection_id and c.until is null`,
};

/* What ends at or below the floor covers nothing that is kept. */
const RECORD_SENDS: Statement = {
  name: 'record_sends',
  text: `
insert into sends (tenant_id, user_id, device_id, connection_id, from_position, to_position, width_class, at, replayed)
select $1, i.user_id, i.device_id, i.connection_id, i.from_position, i.to_position, i.width_class, to_timestamp(i.at / 1000), i.replayed
from unnest($2::text[], $3::text[], $4::uuid[], $5::bigint[], $6::bigint[], $7::smallint[], $8::float8[], $9::bool[], $10::float8[])
  as i (user_id, device_id, connection_id, from_position, to_position, width_class, at, replayed, opened_at)
cross join tenant_logs s
where s.tenant_id = $1 and i.to_position > s.floor and not ${wasErased('i.user_id', timeOf('i.opened_at'))}
on conflict do nothing`,
};

/*
 * No row in acks: what was written is not confirmed. Rows are locked in key order and through their key, and written
 * through the conflict, for the reasons in devices.store.ts; a device that was swept meanwhile stays away.
 */
const MOVE_CURSORS: Statement = {
  name: 'move_cursors',
  text: `
with move as materialized (
  select user_id collate "C" as user_id, device_id collate "C" as device_id, max(position) as position
  from unnest($2::text[], $3::text[], $4::bigint[], $5::float8[]) as m (user_id, device_id, position, opened_at)
  where not ${wasErased('m.user_id', timeOf('m.opened_at'))}
  group by 1, 2 order by 1, 2
), behind as materialized (
  select device.user_id, device.device_id, m.position
  from move m
  cross join lateral (
    select d.user_id, d.device_id from devices d
    where d.tenant_id = $1 and d.user_id = m.user_id and d.device_id = m.device_id and d.cursor < m.position
    for update
  ) device
)
insert into devices (tenant_id, user_id, device_id, cursor)
select $1, user_id, device_id, position from behind
on conflict (tenant_id, user_id, device_id) do update set cursor = excluded.cursor`,
};

/**
 * What the streams of this node did, for history. Every method takes what happened to many connections of one tenant
 * and is one statement; to run it again with the same arguments, after a lost connection, changes nothing.
 */
@Injectable()
export class ReceiptsStore {
  constructor(
    private readonly pool: CrossTenantPool,
    private readonly partitions: Partitions,
  ) {}

  async recordConnections(tenantId: TenantId, opened: readonly ConnectionOpened[]): Promise<void> {
    const rows = opened.map(({ connectionId, user, device, openedAt: opened_at, ...rest }) => ({
      connection_id: connectionId,
      user_id: user,
      device_id: device,
      opened_at,
      ...rest,
    }));
    await this.pool.rows(RECORD_CONNECTIONS, [tenantId, JSON.stringify(rows)]);
  }

  /** After `recordConnections` of the same connections. */
  async endConnections(tenantId: TenantId, ended: readonly ConnectionEnded[]): Promise<void> {
    await this.pool.rows(END_CONNECTIONS, [
      tenantId,
      plainArray(ended.map(({ connectionId }) => connectionId)),
      plainArray(ended.map(({ until }) => until)),
      plainArray(ended.map(({ position }) => position)),
      ended.map(({ reason }) => reason),
    ]);
  }

  async recordSends(tenantId: TenantId, intervals: readonly SendInterval[]): Promise<void> {
    const ends = intervals.map(({ to }) => to);
    await withinPartitions(this.partitions, 'sends', ends, async (stored) => {
      const kept = intervals.flatMap((interval, n) => {
        const to = stored[n];
        return to === undefined || to <= interval.from ? [] : [{ ...interval, to }];
      });
      await this.pool.rows(RECORD_SENDS, [
        tenantId,
        kept.map(({ user }) => user),
        kept.map(({ device }) => device),
        plainArray(kept.map(({ connectionId }) => connectionId)),
        plainArray(kept.map(({ from }) => from)),
        plainArray(kept.map(({ to }) => to)),
        plainArray(kept.map(({ from, to }) => widthClassOf(from, to))),
        plainArray(kept.map(({ at }) => at)),
        plainArray(kept.map(({ replayed }) => replayed)),
        plainArray(kept.map((interval) => interval.openedAt)),
      ]);
    });
  }

  async moveCursors(tenantId: TenantId, moves: readonly CursorMove[]): Promise<void> {
    await this.pool.rows(MOVE_CURSORS, [
      tenantId,
      moves.map(({ user }) => user),
      moves.map(({ device }) => device),
      plainArray(moves.map(({ position }) => position)),
      plainArray(moves.map((move) => move.openedAt)),
    ]);
  }
}

/** An array as PostgreSQL reads it. The driver quotes and escapes every element, which is most of a flush's cost here; these need neither. */
function plainArray(values: readonly (number | boolean | string)[]): string {
  return `{${values.join(',')}}`;
}
