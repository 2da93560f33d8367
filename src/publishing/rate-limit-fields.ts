import type { QuotaState } from '../log/quota.ts';

/** The name of the policy. Its unit is the notification: a request costs as many as it makes. */
const POLICY = '"notifications"';

/**
 * What a publisher is told of the account of its tenant: draft-ietf-httpapi-ratelimit-headers-11 (May 2026), lists of
 * Structured Fields (RFC 9651). The policy is the burst and the seconds in which it comes back (§3). The limit (§4) is what is
 * left, and the seconds in which the rate brings so much: whoever spreads it over them keeps to the rate (§6, §8.5).
 *
 * @param retryAfter of the same answer, in seconds: it may not lie before the end of that window (§6)
 */
export function rateLimitFields(
  { limits: { notificationsPerSecond: rate, burst }, left, wait }: QuotaState,
  retryAfter = Infinity,
): { 'ratelimit-policy': string; ratelimit: string } {
  const remaining = Math.max(0, Math.floor(left));
  const seconds = remaining > 0 ? remaining / rate : wait / 1_000;
  const window = Math.max(1, Math.min(Math.ceil(seconds), retryAfter));
  return {
    'ratelimit-policy': `${POLICY};q=${burst};w=${Math.ceil(burst / rate)}`,
    ratelimit: `${POLICY};r=${remaining};t=${window}`,
  };
}
