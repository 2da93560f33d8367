import { createHash } from 'node:crypto';
import { z } from 'zod';

/*
 * The grammar of every id that callers choose. Ids are compared bytewise, so nothing is trimmed, folded or
 * normalised: two ids that differ in one byte are two ids. A lone surrogate has no UTF-8 form and would become
 * U+FFFD on the way to the database, where two different ids would meet: hence `isWellFormed`.
 */
const token = (max: number, alphabet: string) => new RegExp(`^[${alphabet}]{1,${max}}$`);

const freeText = (what: string) =>
  z
    .string()
    .refine((text) => text.length > 0 && Array.from(text).length <= 256, `${what} has 1 to 256 characters`)
    .refine(
      (text) => text.isWellFormed() && !/\p{Cc}/u.test(text),
      `${what} has no control characters and no lone surrogates`,
    )
    .meta({
      description: '1 to 256 characters, none of them a control character. Compared byte by byte.',
      minLength: 1,
      maxLength: 256,
    });

export const tenantIdSchema = z
  .string()
  .regex(token(64, 'A-Za-z0-9._-'), 'a tenant has 1 to 64 characters of A-Za-z0-9._-')
  .brand<'TenantId'>();
export const userIdSchema = freeText('a user').brand<'UserId'>();
export const topicSchema = freeText('a topic').brand<'Topic'>();
export const deviceIdSchema = z
  .string()
  .regex(token(64, 'A-Za-z0-9._-'), 'a device has 1 to 64 characters of A-Za-z0-9._-')
  .brand<'DeviceId'>();
export const typeSchema = z
  .string()
  .regex(token(128, 'A-Za-z0-9._:-'), 'a type has 1 to 128 characters of A-Za-z0-9._:-');

/**
 * Stands for a user where the name is not to be: in the row of an erasure that is done, and between nodes.
 * src/postgres/erased.ts makes the same digest in SQL. Names of tenants have no colon, so two pairs never make the same text.
 */
export const digestOf = (tenantId: TenantId, user: string): Buffer =>
  createHash('sha256').update(`${tenantId}:${user}`).digest();

export type TenantId = z.infer<typeof tenantIdSchema>;
export type UserId = z.infer<typeof userIdSchema>;
export type Topic = z.infer<typeof topicSchema>;
export type DeviceId = z.infer<typeof deviceIdSchema>;

/** The device of a client that names none. */
export const DEFAULT_DEVICE = deviceIdSchema.parse('default');

/** Scopes that only services and operators hold. A token with one of them is a service token and cannot open a stream (RFC 8725 §3.12). */
export const SERVICE_SCOPES = [
  'notifications:publish',
  // To everyone of the tenant; beside `notifications:publish`, not in its place.
  'notifications:broadcast',
  'history:read',
  'operations:write',
  'tenants:admin',
] as const;
export type ServiceScope = (typeof SERVICE_SCOPES)[number];
