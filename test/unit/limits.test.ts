import { describe, expect, test } from '@jest/globals';
import { readConfig } from '../../src/core/config.ts';
import { LIMIT_NAMES, LIMITS, limitsOf, NO_LIMITS, readLimits } from '../../src/core/limits.ts';

const config = readConfig({});

test('without limits of its own a tenant has those of the settings', () => {
  expect(limitsOf(NO_LIMITS, config)).toEqual({
    notificationsPerSecond: config.NOTIFICATIONS_PER_SECOND,
    burst: config.NOTIFICATIONS_PER_SECOND * config.NOTIFICATIONS_BURST_SECONDS,
    dataBytes: config.MAX_DATA_BYTES,
    storedBytes: config.STORED_BYTES_PER_TENANT,
    topicsPerToken: config.MAX_TOPICS_PER_TOKEN,
    connections: config.MAX_CONNECTIONS_PER_TENANT,
    connectionsPerUser: config.MAX_CONNECTIONS_PER_USER,
    devicesPerUser: config.MAX_DEVICES_PER_USER,
  });
});

test.each(LIMIT_NAMES)('a limit of its own counts: %s', (name) => {
  const { most } = LIMITS[name];
  expect(limitsOf(readLimits({ [name]: 7 }), config)[name]).toBe(7);
  expect(limitsOf(readLimits({ [name]: most + 1 }), config)[name]).toBeLessThanOrEqual(most);
});

test('the burst is that of its own rate, unless it has one', () => {
  expect(limitsOf(readLimits({ notificationsPerSecond: 10 }), config).burst).toBe(20);
  expect(limitsOf(readLimits({ notificationsPerSecond: 10, burst: 5 }), config).burst).toBe(5);
});

describe('what this process cannot bear', () => {
  test('is cut to what one request may hold', () => {
    const small = readConfig({ MAX_REQUEST_BYTES: '2000' });
    expect(limitsOf(readLimits({ dataBytes: 5_000 }), small).dataBytes).toBe(2_000);
    expect(limitsOf(NO_LIMITS, small).dataBytes).toBe(2_000);
  });

  test('is not let in by a database that somebody wrote to', () => {
    expect(limitsOf(readLimits({ notificationsPerSecond: -5 }), config).notificationsPerSecond).toBe(1);
  });
});

test.each<unknown>([
  undefined,
  null,
  5,
  'x',
  [],
  { burst: '5' },
  { burst: 1.5 },
  { burst: null },
  { constructor: 5 },
])('what is stored and cannot be read as limits is as if it were not there: %j', (stored) => {
  expect(readLimits(stored)).toEqual(NO_LIMITS);
});
