import { randomUUID } from 'node:crypto';
import pg from 'pg';
import { obey } from '../../load/rounds.ts';
import { inClosedLoops } from './latencies.ts';
import { now, stamped } from './messages.ts';

/*
 * What the database can take: so many connections, each of which inserts one batch after the other into the same table, with
 * one statement and nothing around it. No order, no keys, no account, no row-level security.
 */

const [, , url = '', connections = '', seconds = '', bytes = '', batch = '', first = ''] = process.argv;

const INSERT = {
  name: 'insert',
  text: `
insert into notifications (tenant_id, position, id, user_id, type, data, size, publisher)
select 'bench', d.position, d.id, 'user-' || d.position % 1000, 'bench', d.data, length(d.data), 'bench'
from unnest($1::bigint[], $2::uuid[], $3::text[]) as d (position, id, data)`,
};

const clients = Array.from({ length: Number(connections) }, () => new pg.Client({ connectionString: url }));
let position = Number(first);

await obey({
  async prepare() {
    await Promise.all(clients.map((client) => client.connect()));
  },
  round: () =>
    inClosedLoops(clients, Number(seconds), async (client) => {
      const data = stamped(now(), Number(bytes));
      const places = Array.from({ length: Number(batch) }, () => (position += 1));
      await client.query({
        ...INSERT,
        values: [places, places.map(() => randomUUID()), places.map(() => data)],
      });
    }),
});
