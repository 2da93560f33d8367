/** `data` of `bytes` bytes that says when it was meant to be sent, in µs by a clock that all processes share. */
export const stamped = (at: number, bytes: number): string => filled(`{"at":${at},"text":"`, bytes);

/** The same of other data, which says nothing. */
export const padded = (_at: number, bytes: number): string => filled(`{"text":"`, bytes);

const filled = (head: string, bytes: number): string =>
  `${head}${'x'.repeat(Math.max(0, bytes - head.length - 2))}"}`;

/** µs by that clock. */
export const now = (): number => Number(process.hrtime.bigint() / 1_000n);
