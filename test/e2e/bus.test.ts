import { describe, expect, test } from '@jest/globals';
import { Bus } from '../../src/cluster/bus.ts';
import { Metrics } from '../../src/telemetry/metrics.ts';
import { publish } from '../support/api.ts';
import { startService } from '../support/app.ts';
import { describeBus } from '../support/bus-contract.ts';
import { throughPort } from '../support/database.ts';
import { serviceToken } from '../support/tokens.ts';

/* What one node stores reaches the streams of another by the bus, and by the poll of the log where the bus fails. */

describe('by PostgreSQL', () => {
  describeBus(10, async (database) => ({
    url: database.url,
    settings: (place) => ({
      DATABASE_LISTEN_URL: throughPort(database, Number(place.split(':')[1])).urls.crossTenant,
    }),
    say: async (payload) => {
      await database.query(`select pg_notify('tidings', $1)`, [payload]);
    },
    close: async () => undefined,
  }));
});

test('a node that is alone says nothing, and takes no connection for it', async () => {
  const alone = await startService();
  await publish(alone.url, serviceToken(), { to: { user: 'alice' }, type: 't', data: null });
  const { values } = await alone.app.get(Metrics).busMessages.get();
  expect(values.filter(({ value }) => value > 0)).toEqual([]);
  expect(alone.app.get(Bus).state).toBe('alone');
  const connections = await alone.database.query(
    `select application_name from pg_stat_activity
     where datname = current_database() and application_name in ('tidings listener', 'tidings bus')`,
  );
  expect(connections).toEqual([]);
  await alone.close();
});
