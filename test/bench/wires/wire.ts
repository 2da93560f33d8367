import type { Subscription } from '../../load/sockets.ts';

/** Whom a message is for: everyone who listens, or the user of that number. */
export type To = 'everyone' | number;

/** What clients say to a system, so that the same programs can load all of them. */
export interface Wire {
  /** Where it listens, if that is not here. */
  readonly host?: string;
  /** The stream of the user `n`. Where a stream is one of a channel, it depends on what will be published. */
  subscription(n: number, to: 'everyone' | 'user'): Subscription;
  /** A publish of `data`, which is JSON. */
  publish(to: To, data: string): string;
}

/** The end of a head: where it is the answer to all who come, they are in. */
export const OPEN = '\r\n\r\n';

/** A request for a stream, as it is on the wire. */
export const get = (path: string, host = 'localhost'): string =>
  `GET ${path} HTTP/1.1\r\nhost: ${host}\r\naccept: text/event-stream\r\n\r\n`;

/** The streams of so many users, from the user `first` on. */
export const subscriptionsTo = (
  wire: Wire,
  users: number,
  to: 'everyone' | 'user',
  first = 0,
): Subscription[] => Array.from({ length: users }, (_, n) => wire.subscription(first + n, to));
