import { describe, expect, test } from '@jest/globals';
import pg from 'pg';
import { DatabaseUrlError, readDatabaseUrl } from '../../src/core/database-url.ts';

/** What the driver makes of a URL of one host. */
function driverReads(url: string): {
  host: string;
  port: number;
  user?: string;
  password?: string;
  database?: string;
} {
  const { host, port, user, password, database } = new pg.Client(url);
  return {
    host,
    port,
    ...(user === undefined ? {} : { user }),
    ...(password === undefined ? {} : { password }),
    ...(database === undefined ? {} : { database }),
  };
}

describe('the hosts of a URL', () => {
  test.each([
    ['postgres://u:p@h/db', ['h:5432']],
    ['postgresql://u:p@h:6000/db', ['h:6000']],
    ['postgres://u:p@h1:5432,h2:5433/db?target_session_attrs=read-write', ['h1:5432', 'h2:5433']],
    ['postgres://u:p@h1,h2,h3:7/db?target_session_attrs=primary', ['h1:5432', 'h2:5432', 'h3:7']],
    ['postgres://u:p@[::1]:6000,[fe80::1%eth0]/db', ['[::1]:6000', '[fe80::1%eth0]:5432']],
    ['postgres://u:p@/db?host=/var/run/postgresql', ['/var/run/postgresql:5432']],
    ['postgres://u:p@%2Fvar%2Frun%2Fpostgresql:6000/db', ['/var/run/postgresql:6000']],
    ['postgres://u:p@/db?host=h1,h2&port=6000', ['h1:6000', 'h2:6000']],
    ['postgres://u:p@/db?host=h1,h2&port=6000,6001', ['h1:6000', 'h2:6001']],
    ['postgres://u:p@/db', ['localhost:5432']],
  ])('%s leads to %j', (url, places) => {
    const { hosts, place, urlOf } = readDatabaseUrl(url);
    expect(place).toBe(`${places.join(',')}/db`);
    for (const host of hosts)
      expect(driverReads(urlOf(host))).toEqual({ ...host, user: 'u', password: 'p', database: 'db' });
  });
});

test('a login is what it is before it was escaped, for us and for the driver', () => {
  const password = 'a:b@c/d?e#f%g h+i&j=ü';
  const name = 'user@realm';
  const { login, hosts, urlOf } = readDatabaseUrl(
    `postgres://${encodeURIComponent(name)}:${encodeURIComponent(password)}@h1,h2/db?sslmode=disable`,
  );
  expect(login).toEqual({ name, password });
  expect(driverReads(urlOf(hosts[0]))).toMatchObject({ user: name, password });
});

test('what is the business of the driver reaches it', () => {
  const { hosts, urlOf } = readDatabaseUrl(
    'postgres://u:p@h1,h2/db?sslmode=no-verify&options=-c%20geqo%3Doff',
  );
  const url = new URL(urlOf(hosts[0]));
  expect(Object.fromEntries(url.searchParams)).toMatchObject({
    sslmode: 'no-verify',
    options: '-c geqo=off',
  });
});

describe('a URL that leads nowhere is refused in a sentence that repeats nothing of it', () => {
  test.each([
    ['mysql://u:hunter2@h/db', /begins with postgres:/],
    ['postgres://h/db', /begins with postgres:/],
    ['postgres://u:hun/ter2@h/db', /begins with postgres:.*%2F/],
    ['postgres://u:hun#ter2@h/db', /begins with postgres:.*%23/],
    ['postgres://u:hun@ter2@h/db', /begins with postgres:.*%40/],
    ['postgres://u:hunter2%@h/db', /% that begins no escape/],
    ['postgres://:hunter2@h/db', /names no login/],
    ['postgres://u:hunter2@h:99999/db', /port that is none/],
    ['postgres://u:hunter2@h:1:2/db', /host that is none/],
    ['postgres://u:hunter2@h1,h2/db?port=1,2,3', /another number of ports/],
    ['postgres://u:hunter2@h/db?target_session_attrs=standby', /servers without writes/],
    ['postgres://u@h/db?password=hunter2', /before the @/],
  ])('%s', (url, sentence) => {
    let refusal: unknown;
    try {
      readDatabaseUrl(url);
    } catch (error) {
      refusal = error;
    }
    if (!(refusal instanceof DatabaseUrlError)) throw new Error('it was not refused');
    expect(refusal.message).toMatch(sentence);
    expect(refusal.message).not.toMatch(/hun|ter2/);
    expect(Object.keys(refusal)).toEqual(['name']);
  });
});
