import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { tenantIdSchema, type TenantId } from '../core/identifiers.ts';

/*
 * A ticket reads `tenant.secret`, both base64url: the tenant, under which its row is found, and 48 bytes, which are random,
 * the end of the ticket and a seal. The random ones alone make it good, by the row that has their hash. The seal is there
 * because a stranger can make up any number of tickets, and each would cost the database a statement: what no node of
 * this installation has sealed, or what is over, is refused without asking. Lengths are such that base64url has one spelling.
 */
const RANDOM_BYTES = 24;
/** ms since 1970. */
const END_BYTES = 6;
/** Of HMAC-SHA256; RFC 2104 §5 wants half of it at least. */
const SEAL_BYTES = 18;
const SEALED_BYTES = RANDOM_BYTES + END_BYTES;

const TICKET = /^([A-Za-z0-9_-]{2,86})\.([A-Za-z0-9_-]{64})$/;
const MAX_LENGTH = 86 + 1 + 64;

/** A ticket that some node has sealed. */
export interface SealedTicket {
  readonly tenantId: TenantId;
  /** What makes it good, if it was not used yet. */
  readonly random: Buffer;
  /** ms since 1970 by the database's clock; from then on it is of no use. */
  readonly expiresAt: number;
}

/** What a new ticket is made of. */
export const randomPart = (): Buffer => randomBytes(RANDOM_BYTES);

/** Makes tickets, and tells those that a node with the same key has made. */
export class TicketSeal {
  /** @param key known to every node of the installation */
  constructor(private readonly key: Buffer) {}

  write({ tenantId, random, expiresAt }: SealedTicket): string {
    const sealed = Buffer.alloc(SEALED_BYTES);
    random.copy(sealed);
    sealed.writeUIntBE(expiresAt, RANDOM_BYTES, END_BYTES);
    const secret = Buffer.concat([sealed, this.#sealOf(tenantId, sealed)]).toString('base64url');
    return `${Buffer.from(tenantId).toString('base64url')}.${secret}`;
  }

  /** Undefined: no node has made it. `text` as it stands in a query: of any type and length. */
  read(text: unknown): SealedTicket | undefined {
    if (typeof text !== 'string' || text.length > MAX_LENGTH) return undefined;
    const [, name, secret] = TICKET.exec(text) ?? [];
    if (name === undefined || secret === undefined) return undefined;
    const tenantId = tenantIdSchema.safeParse(Buffer.from(name, 'base64url').toString()).data;
    // Decoding drops spare bits of the name, and a ticket has one spelling.
    if (tenantId === undefined || Buffer.from(tenantId).toString('base64url') !== name) return undefined;
    const bytes = Buffer.from(secret, 'base64url');
    const sealed = bytes.subarray(0, SEALED_BYTES);
    if (!timingSafeEqual(bytes.subarray(SEALED_BYTES), this.#sealOf(tenantId, sealed))) return undefined;
    return {
      tenantId,
      random: sealed.subarray(0, RANDOM_BYTES),
      expiresAt: sealed.readUIntBE(RANDOM_BYTES, END_BYTES),
    };
  }

  /** The sealed bytes have one length, so that nothing of them can pass for the tenant. */
  #sealOf(tenantId: TenantId, sealed: Buffer): Buffer {
    const mac = createHmac('sha256', this.key).update(sealed).update(tenantId).digest();
    return mac.subarray(0, SEAL_BYTES);
  }
}
