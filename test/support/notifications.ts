import { randomUUIDv7 } from 'node:crypto';
import { userIdSchema } from '../../src/core/identifiers.ts';
import type { Draft, Notification } from '../../src/core/notification.ts';
import { asPosition } from '../../src/core/position.ts';

/** A notification before it is stored: to alice, and as large as its data, unless told otherwise. */
export function draft(changes: Partial<Draft> = {}): Draft {
  const { data = '1' } = changes;
  return {
    id: randomUUIDv7(),
    to: { user: userIdSchema.parse('alice') },
    type: 't',
    data,
    size: Buffer.byteLength(data),
    expiresAt: null,
    inbox: true,
    trace: null,
    ...changes,
  };
}

/** One in the log. */
export const notification = (position: number, changes: Partial<Draft> = {}): Notification => ({
  ...draft(changes),
  position: asPosition(position),
});
