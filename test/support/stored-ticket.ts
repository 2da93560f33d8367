import { createHash } from 'node:crypto';

/** By what the row of a ticket is found: the hash of its first 24 bytes, the random ones. */
export function storedHash(ticket: string): Buffer {
  const secret = Buffer.from(ticket.split('.')[1] ?? '', 'base64url');
  return createHash('sha256').update(secret.subarray(0, 24)).digest();
}
