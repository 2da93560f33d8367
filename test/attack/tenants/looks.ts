import type { Answered } from './request.ts';

/** What is another in every answer, by the way it looks. */
const ITS_OWN: readonly [RegExp, string][] = [
  [/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g, '<uuid>'],
  [/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z/g, '<time>'],
  [/\b\d{15,16}\b/g, '<position>'],
  // What is left of a quota comes back with every millisecond.
  [/^ratelimit: .*$/gm, 'ratelimit: <what is left>'],
  // A ticket.
  [/[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{64}/g, '<ticket>'],
];

/** An answer without what is another in each, and without what was named in the request. */
export function looksOf({ status, headers, body }: Answered, named: string): string[] {
  const lines = [
    String(status),
    ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`),
    ...JSON.stringify(body, undefined, 1).split('\n'),
  ];
  return lines.map((line) =>
    ITS_OWN.reduce(
      (text, [pattern, name]) => text.replaceAll(pattern, name),
      line.replaceAll(named, '<named>'),
    ),
  );
}
