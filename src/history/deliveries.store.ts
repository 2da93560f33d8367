import { Injectable } from '@nestjs/common';
import type { Statement } from '../postgres/pool.ts';
import { HistoryPool } from '../postgres/pools.ts';
import type { DeviceId, TenantId, Topic, UserId } from '../core/identifiers.ts';
import type { Position } from '../core/position.ts';
import { ackOf, coveringOfUser, hadTopic, LOG_HEAD } from './covering.ts';
import { receiptsOf, type Confirmation, type LogEntry, type Receipt } from './delivery-status.ts';

const SENT_TO_USERS: Statement = {
  name: 'history_sent_to_users',
  text: `
select p.position, p.user_id as "user", i.device_id as device, count(*)::int as sends,
  min(i.at) as "firstSentAt", max(i.at) as "lastSentAt"
from ${LOG_HEAD}
cross join unnest($2::text[], $3::bigint[]) as p (user_id, position)
cross join lateral ${coveringOfUser('p.position', 'i.device_id, i.connection_id, i.at', 'p.user_id')} i
where $4::text is null or ${hadTopic('i.connection_id', '$4')}
group by 1, 2, 3`,
};

const CONFIRMED_BY_USERS: Statement = {
  name: 'history_confirmed_by_users',
  text: `
select p.position, p.user_id as "user", d.device_id as device, a.at
from unnest($2::text[], $3::bigint[]) as p (user_id, position)
cross join lateral (
  select d.device_id from devices d where d.tenant_id = $1 and d.user_id = p.user_id offset 0
) d
cross join lateral (${ackOf('p.user_id', 'd.device_id', 'p.position')}) a
where a.from_position < p.position`,
};

/* Devices in the order of their key: a page costs the same however many follow. */
const confirmedByDevices = (name: string, target: string): Statement => ({
  name,
  text: `
select d.user_id as "user", d.device_id as device, a.at
from (
  select user_id, device_id from devices
  where tenant_id = $1 and (user_id, device_id) > ($5, $6) ${target}
  order by user_id, device_id limit $4
) d
left join lateral (${ackOf('d.user_id', 'd.device_id', '$2')}) a
  on a.from_position < $2 and ($3::text is null or $3 = any(a.topics))
order by d.user_id, d.device_id`,
});

const CONFIRMED_BY_DEVICES = confirmedByDevices('history_devices', '');
const CONFIRMED_BY_DEVICES_OF_USER = confirmedByDevices('history_devices_of_user', 'and user_id = $7');

type Sent = Omit<Receipt, 'deliveredAt'>;

export interface DevicePage {
  readonly receipts: readonly Receipt[];
  /** The last device that was looked at; undefined: there are no more. */
  readonly reached: { readonly user: UserId; readonly device: DeviceId } | undefined;
}

/**
 * Which device each notification was written to, and which confirmed it. Acknowledgements are read before sends: a
 * late one counts by what was sent before it.
 */
@Injectable()
export class DeliveriesStore {
  constructor(private readonly pool: HistoryPool) {}

  /** The receipts of notifications to single users, by position. Others are left out. */
  async ofUsers(tenantId: TenantId, entries: readonly LogEntry[]): Promise<Map<Position, Receipt[]>> {
    const own = entries.flatMap((entry) => ('user' in entry.to ? [{ entry, user: entry.to.user }] : []));
    if (own.length === 0) return new Map();
    const users = own.map(({ user }) => user);
    const positions = own.map(({ entry }) => entry.position);
    const values = [users, positions];
    const confirmed = Map.groupBy(
      await this.pool.rows<{ position: Position } & Confirmation>(tenantId, CONFIRMED_BY_USERS, values),
      ({ position }) => position,
    );
    const sent = await this.#sent(tenantId, users, positions, null);
    return new Map(
      own.map(({ entry }) => {
        const { position } = entry;
        return [position, receiptsOf(entry, sent.get(position) ?? [], confirmed.get(position) ?? [])];
      }),
    );
  }

  /** Looks at the next `limit` devices after `after` that may have the notification. */
  async devices(
    tenantId: TenantId,
    entry: LogEntry,
    after: readonly [user: string, device: string],
    limit: number,
  ): Promise<DevicePage> {
    const { to, position } = entry;
    const topic = 'topic' in to ? to.topic : null;
    const values = [position, topic, limit, ...after];
    const devices =
      'user' in to
        ? await this.pool.rows<MaybeConfirmed>(tenantId, CONFIRMED_BY_DEVICES_OF_USER, [...values, to.user])
        : await this.pool.rows<MaybeConfirmed>(tenantId, CONFIRMED_BY_DEVICES, values);
    const users = [...new Set(devices.map(({ user }) => user))];
    const sent = await this.#sent(tenantId, users, Array<Position>(users.length).fill(position), topic);
    // A user's other devices are on other pages.
    const onPage = new Set(devices.map(({ user, device }) => `${device} ${user}`));
    const ofPage = (sent.get(position) ?? []).filter(({ user, device }) => onPage.has(`${device} ${user}`));
    const confirmed = devices.flatMap(({ at, ...device }) => (at === null ? [] : [{ ...device, at }]));
    return {
      receipts: receiptsOf(entry, ofPage, confirmed),
      reached: devices.length < limit ? undefined : devices.at(-1),
    };
  }

  /** What was sent of notifications to the devices of users, in pairs; `topic`: to connections that had it. */
  async #sent(
    tenantId: TenantId,
    users: readonly UserId[],
    positions: readonly Position[],
    topic: Topic | null,
  ): Promise<Map<Position, Sent[]>> {
    const rows = await this.pool.rows<{ position: Position } & Sent>(tenantId, SENT_TO_USERS, [
      users,
      positions,
      topic,
    ]);
    const sent = new Map<Position, Sent[]>();
    for (const { position, ...row } of rows) {
      const known = sent.get(position);
      if (known === undefined) sent.set(position, [row]);
      else known.push(row);
    }
    return sent;
  }
}

type MaybeConfirmed = Omit<Confirmation, 'at'> & { readonly at: Date | null };
