import { asPosition } from '../../src/core/position.ts';
import { widthClassOf } from '../../src/receipts/intervals.ts';
import type { TestDatabase } from './database.ts';

/** What a user saw, read or archived, as the service stores it. */
export interface Engagement {
  readonly user: string;
  readonly kind: 'seen' | 'read' | 'archived';
  /** Where the watermark was before it moved; undefined: the one notification at `upTo` was marked. */
  readonly from?: number;
  readonly upTo: number;
  readonly at?: Date;
  readonly topics?: readonly string[];
}

export async function engaged(
  database: TestDatabase,
  tenant: string,
  { user, kind, from, upTo, at = new Date(), topics = [] }: Engagement,
): Promise<void> {
  await database.query(
    `insert into inbox_users (tenant_id, user_id, since, seen_up_to, read_up_to, revision, changes_since)
     values ($1, $2, 0, 0, 0, 1, 1) on conflict do nothing`,
    [tenant, user],
  );
  const [begin, end] = [asPosition(from ?? upTo - 1), asPosition(upTo)];
  await database.query(
    `insert into engagements (tenant_id, user_id, kind, single, from_position, to_position, width_class, at, topics)
     values ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
    [tenant, user, kind, from === undefined, begin, end, widthClassOf(begin, end), at, topics],
  );
}
