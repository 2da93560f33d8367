import { FirstTables1700000000001 } from './0001-first-tables.ts';
import { IssuersAndRevocations1700000000002 } from './0002-issuers-and-revocations.ts';
import { RowLevelSecurity1700000000003 } from './0003-row-level-security.ts';
import { Limits1700000000004 } from './0004-limits.ts';
import { Privacy1700000000005 } from './0005-privacy.ts';
import { StreamLimits1700000000006 } from './0006-stream-limits.ts';
import { ErasuresInMemory1700000000007 } from './0007-erasures-in-memory.ts';
import { TicketKey1700000000008 } from './0008-ticket-key.ts';
import { NodeInstances1700000000009 } from './0009-node-instances.ts';
import { RevocationsBySubject1700000000010 } from './0010-revocations-by-subject.ts';
import { Beginnings1700000000011 } from './0011-beginnings.ts';
import { OneWordPerThing1700000000012 } from './0012-one-word-per-thing.ts';
import { DrainingNodes1700000000013 } from './0013-draining-nodes.ts';
import { Inbox1700000000014 } from './0014-inbox.ts';
import { InboxRanges1700000000015 } from './0015-inbox-ranges.ts';

/** In order. A list and not a glob, so that a build cannot lose one. */
export const migrations = [
  FirstTables1700000000001,
  IssuersAndRevocations1700000000002,
  RowLevelSecurity1700000000003,
  Limits1700000000004,
  Privacy1700000000005,
  StreamLimits1700000000006,
  ErasuresInMemory1700000000007,
  TicketKey1700000000008,
  NodeInstances1700000000009,
  RevocationsBySubject1700000000010,
  Beginnings1700000000011,
  OneWordPerThing1700000000012,
  DrainingNodes1700000000013,
  Inbox1700000000014,
  InboxRanges1700000000015,
];
