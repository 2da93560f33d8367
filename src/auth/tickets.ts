import { createHash, randomBytes } from 'node:crypto';
import { Inject, Injectable } from '@nestjs/common';
import { z } from 'zod';
import { CONFIG, type Config } from '../config.ts';
import { nowBeingErased } from '../database/erased.ts';
import {
  deviceIdSchema,
  tenantIdSchema,
  topicSchema,
  userIdSchema,
  type DeviceId,
  type TenantId,
} from '../identifiers.ts';
import { Admission } from './admission.ts';
import { ticketInvalid } from './bearer.ts';
import type { Principal } from './principal.ts';
import { TicketsStore } from './tickets.store.ts';

const RANDOM_BYTES = 32;

/** base64url of the tenant, by which the row is found, and 256 random bits. */
const TICKET = /^([A-Za-z0-9_-]{2,86})\.[A-Za-z0-9_-]{43}$/;

/** What a ticket stands for: of a principal all but the rights of services, since a ticket opens the stream of a user and nothing else. */
const grantSchema = z.strictObject({
  tenantId: tenantIdSchema,
  subject: userIdSchema,
  topics: z.array(topicSchema).readonly(),
  device: deviceIdSchema,
  expiresAt: z.number(),
  issuer: z.string(),
  tokenId: z.string().optional(),
  issuedAt: z.number().optional(),
});

/** A ticket in place of a token, for an EventSource, which can send neither headers nor a body: it opens one stream, soon. */
@Injectable()
export class Tickets {
  constructor(
    private readonly store: TicketsStore,
    private readonly admission: Admission,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  /**
   * A ticket for the stream of this device. Good for STREAM_TICKET_SECONDS, at most until the token ends.
   * @throws Problem `being_erased` (503), or the database's error
   */
  async issue(principal: Principal, device: DeviceId): Promise<{ ticket: string; expiresAt: Date }> {
    const { tenantId, scopes: _, publishesTo: __, ...rest } = principal;
    const random = randomBytes(RANDOM_BYTES).toString('base64url');
    const ticket = `${Buffer.from(tenantId).toString('base64url')}.${random}`;
    const expiresAt = await this.store.keep(
      tenantId,
      principal.subject,
      digest(ticket),
      JSON.stringify({ ...rest, tenantId, device } satisfies z.input<typeof grantSchema>),
      this.config.STREAM_TICKET_SECONDS,
      principal.expiresAt,
    );
    if (expiresAt === undefined) throw nowBeingErased();
    return { ticket, expiresAt };
  }

  /**
   * The caller that a ticket stands for; the ticket is spent, whatever comes of it. Its token may have been revoked since.
   * @param ticket as it stands in the query: of any type
   * @throws Problem `ticket_invalid`, `token_invalid`, `tenant_suspended`, `tenant_unknown`; the database's error
   */
  async redeem(ticket: unknown): Promise<Principal> {
    const tenantId = tenantOf(ticket);
    const grant = tenantId && (await this.store.take(tenantId, digest(String(ticket))));
    if (grant === undefined) throw ticketInvalid('The ticket is unknown, was used, or has expired.');
    const { tokenId, issuedAt, ...rest } = grantSchema.parse(JSON.parse(grant));
    const principal: Principal = { ...rest, tokenId, issuedAt, scopes: new Set(), publishesTo: undefined };
    this.admission.admit(principal);
    return principal;
  }
}

/** Only where to look: the hash is that of the whole ticket, so under another tenant there is nothing to find. */
function tenantOf(ticket: unknown): TenantId | undefined {
  const part = typeof ticket === 'string' ? TICKET.exec(ticket)?.[1] : undefined;
  if (part === undefined) return undefined;
  return tenantIdSchema.safeParse(Buffer.from(part, 'base64url').toString()).data;
}

const digest = (ticket: string): Buffer => createHash('sha256').update(ticket).digest();
