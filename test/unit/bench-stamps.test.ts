import { Socket } from 'node:net';
import { describe, expect, test } from '@jest/globals';
import { now, stamped } from '../bench/clients/messages.ts';
import { Stamps } from '../bench/clients/stamps.ts';

const chunk = (text: string): string => `${text.length.toString(16)}\r\n${text}\r\n`;

/** As net/http of Go writes what is longer than its buffer. */
const cut = (text: string): string => (text.match(/[^]{1,2048}/g) ?? []).map(chunk).join('');

/** What was sent then has taken no longer, in ms; times are recorded in steps. */
const mostSince = (at: number): number => (1.05 * (now() - at)) / 1_000;

describe('the stamps of messages', () => {
  test('are found in frames that come in pieces, and in what a publication is wrapped in', async () => {
    const stamps = new Stamps();
    const found = stamps.next(2);
    const [one, other] = [new Socket(), new Socket()];
    const at = now() - 1_000_000;
    const frame = chunk(`data: {"channel":"everyone","pub":{"data":${stamped(at, 240)}}}\n\n`);
    stamps.heard(frame.slice(0, 60), one);
    stamps.heard(frame, other);
    stamps.heard(frame.slice(60), one);
    const { count, p50 } = await found;
    expect(count).toBe(2);
    expect(p50).toBeGreaterThan(990);
    expect(p50).toBeLessThan(mostSince(at));
  });

  test('are found wherever a server cuts many frames that it writes at once', async () => {
    const at = now() - 1_000_000;
    const frame = `data: ${stamped(at, 240)}\n\n`;
    const many = 1_000;
    const text = cut(frame.repeat(many));
    expect(text.match(/"at":\d+,/g)?.length).toBeLessThan(many);
    const stamps = new Stamps();
    const found = stamps.next(many);
    const socket = new Socket();
    for (const piece of text.match(/[^]{1,1460}/g) ?? []) stamps.heard(piece, socket);
    const { count, max } = await found;
    expect(count).toBe(many);
    // A stamp that was cut would be of long ago.
    expect(max).toBeLessThan(mostSince(at));
  });
});
