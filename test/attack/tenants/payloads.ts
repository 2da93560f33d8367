/* What means something to PostgreSQL, to one of its types, or to what stands between it and the caller. */

/** Texts that are a good user, topic or key as they are: whoever takes them has to take them for what they say. */
export const HOSTILE_TEXTS = [
  `'`,
  `"`,
  `\\`,
  `\\'`,
  `x' or tenant_id <> 'x' /* y */ --`,
  `x'; drop table notifications; --`,
  `$1`,
  `$$x$$`,
  `%`,
  `_`,
  `{}`,
  `{a,"b"}`,
  `{"a":1}`,
  `(1,2)`,
  `null`,
  `->>'a'`,
  `\u2019 or \u02bc1\u02bc=\uff071`,
  `\u{1f600}'`,
] as const;

/** Texts that cannot be stored, or are nothing at all. */
export const IMPOSSIBLE_TEXTS = [``, `\u0000`, `a\u0000' or 1=1`, `\ud800`, `a\r\nb: c`] as const;

/** The same as bytes of a URL, which no client library would send. */
export const RAW_IN_URLS = [
  '%00',
  '%27%00',
  '%ff',
  '%ed%a0%80',
  '%c0%a7',
  '%',
  '%u0027',
  "'",
  '..%2f..%2f',
] as const;

/** As it stands in a header: its bytes, one character each. Undefined: no header can carry it. */
export const inHeader = (text: string): string | undefined =>
  /[\p{Cc}\p{Cs}]/u.test(text) ? undefined : Buffer.from(text).toString('latin1');
