import { randomBytes } from 'node:crypto';
import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { randomPart, TicketSeal } from '../../src/auth/tickets.ts';
import { tenantIdSchema } from '../../src/core/identifiers.ts';

const seal = new TicketSeal(randomBytes(32));
const tenants = fc.stringMatching(/^[A-Za-z0-9._-]{1,64}$/).map((text) => tenantIdSchema.parse(text));
const tickets = fc.record({
  tenantId: tenants,
  random: fc.uint8Array({ minLength: 24, maxLength: 24 }).map((bytes) => Buffer.from(bytes)),
  expiresAt: fc.integer({ min: 0, max: 253_402_300_799_999 }),
});

test('a ticket says whose it is and when it ends to whoever has the key, in one spelling that a URL takes as it is', () => {
  fc.assert(
    fc.property(tickets, (ticket) => {
      const text = seal.write(ticket);
      expect(text).toMatch(/^[A-Za-z0-9_-]{2,86}\.[A-Za-z0-9_-]{64}$/);
      expect(seal.read(text)).toEqual(ticket);
      expect(new TicketSeal(randomBytes(32)).read(text)).toBeUndefined();
    }),
  );
});

const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=';

test('a ticket with any other character, tenant or length is none', () => {
  fc.assert(
    fc.property(
      tickets,
      fc.nat(),
      fc.constantFrom(...alphabet.split('')),
      tenants,
      (ticket, at, character, tenant) => {
        const text = seal.write(ticket);
        const place = at % text.length;
        const changed = text.slice(0, place) + character + text.slice(place + 1);
        if (changed !== text) expect(seal.read(changed)).toBeUndefined();
        const moved = `${Buffer.from(tenant).toString('base64url')}.${text.split('.')[1]}`;
        if (moved !== text) expect(seal.read(moved)).toBeUndefined();
        expect(seal.read(text + character)).toBeUndefined();
        expect(seal.read(text.slice(1))).toBeUndefined();
      },
    ),
  );
});

test('a ticket has one spelling, also where bits of the last character of its tenant mean nothing', () => {
  for (const tenant of ['a', 'ab', 'abc']) {
    const text = seal.write({ tenantId: tenantIdSchema.parse(tenant), random: randomPart(), expiresAt: 0 });
    const last = text.indexOf('.') - 1;
    for (const character of alphabet) {
      const spelled = text.slice(0, last) + character + text.slice(last + 1);
      expect(seal.read(spelled) !== undefined).toBe(spelled === text);
    }
  }
});

test('whatever a query holds in place of a ticket is none, and nothing breaks', () => {
  fc.assert(fc.property(fc.anything(), (value) => expect(seal.read(value)).toBeUndefined()));
  expect(seal.read('A'.repeat(1_000_000))).toBeUndefined();
  // One in a list reads like one.
  const good = seal.write({ tenantId: tenantIdSchema.parse('acme'), random: randomPart(), expiresAt: 0 });
  expect(seal.read([good])).toBeUndefined();
});

test('no two tickets are made of the same bytes', () => {
  const made = Array.from({ length: 1_000 }, () => randomPart().toString('hex'));
  expect(new Set(made).size).toBe(1_000);
});
