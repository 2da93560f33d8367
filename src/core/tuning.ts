const KIB = 1024;
const MIB = 1024 * KIB;

/*
 * Numbers that no operator has to choose: one value is right for every deployment, and the reason for it stands here.
 * Together with the settings they are the `Config` that the code reads. A test can give other values to `readConfig`;
 * nothing in the environment changes them.
 */
export const TUNING = Object.freeze({
  // --- publishing ---

  /**
   * Seconds of its rate that a tenant may publish at once after a pause, unless it has `limits.burst`. With one second, a
   * publisher that uses its whole rate would be refused as soon as its requests come a little unevenly.
   */
  NOTIFICATIONS_BURST_SECONDS: 2,
  /**
   * Most notifications of one request, after `users` is expanded: as many as one statement appends. A publisher that has more
   * sends more requests, and other publishers of the tenant come in between.
   */
  MAX_NOTIFICATIONS_PER_REQUEST: 1_000,
  /**
   * Deepest nesting of `data`. Parsers are recursive: PostgreSQL gives up at 30,000 levels, and some clients sooner. No
   * message that anybody means comes near 100.
   */
  MAX_DATA_DEPTH: 100,
  /**
   * Most notifications that one statement appends (a larger request is one statement all the same). What a batch saves is
   * saved by far fewer; a larger one only keeps its first publisher waiting.
   */
  INGEST_BATCH_SIZE: 1_000,
  /** Most notifications that wait on a node to be appended; beyond it 503. A node appends about as many in a second. */
  INGEST_QUEUE_NOTIFICATIONS: 20_000,
  /** Most bytes that wait on a node to be appended; beyond it 503. It bounds memory when notifications are large. */
  INGEST_QUEUE_BYTES: 64 * MIB,

  // --- callers ---

  /**
   * Most verified tokens that a node remembers, so that their signature is checked only once. That is more than
   * MAX_CONNECTIONS by default: everybody who has a stream can come back without a check.
   */
  TOKEN_CACHE_SIZE: 20_000,
  /**
   * How often a node asks the database for revocations, erasures, renewals and changed issuers and tenants, in ms. A revocation
   * counts on every node within a second, so this and the query together have to stay below one.
   */
  CHANGES_POLL_MS: 500,
  /**
   * Longest wait for the answer to that, in ms: a connection that went silent is noticed soon, and another one is made.
   */
  CHANGES_TIMEOUT_MS: 2_000,
  /**
   * How long a stream ticket can be used, in s: enough for a slow phone to open its stream, and too short for whoever
   * finds the ticket in the log of a proxy.
   */
  STREAM_TICKET_SECONDS: 30,

  // --- streams ---

  /** Middle of the jittered `retry:` that a stream announces, in ms: about what browsers wait by themselves. */
  STREAM_RETRY_MS: 3_000,
  /** As STREAM_RETRY_MS where a node stops and another one lives: short, and where that fails still some time between two attempts. */
  MOVING_RETRY_MS: 300,
  /** How many streams of a node that stops are told to come back in a second: a node that is busy takes in as many. */
  RETURNS_PER_SECOND: 500,
  /**
   * Bytes that may wait for one socket before its stream goes back to reading the log. A slow reader then takes about as
   * much memory as one large notification.
   */
  STREAM_BUFFER_BYTES: 64 * KIB,
  /**
   * A socket that takes no byte for this long is dead, in s. A phone in a tunnel is slow for a minute or two; a dead socket
   * costs no more than its place among the streams.
   */
  STREAM_STALL_SECONDS: 300,
  /**
   * How long before the end of its token a stream gets `expiring`, in s. Within it a client has to fetch a new token and
   * to renew. It has to be longer than TOKEN_EXPIRY_SPREAD_SECONDS.
   */
  TOKEN_EXPIRY_NOTICE_SECONDS: 60,
  /**
   * Streams end up to this long before their token does, in s, each at another moment: so a thousand streams whose tokens
   * end in the same second do not come back at once.
   */
  TOKEN_EXPIRY_SPREAD_SECONDS: 5,
  /**
   * Newest part of the log that is kept in memory for a tenant with open streams, in bytes. Streams that are no further
   * behind are served without the database. TAIL_BYTES has room for 32 tenants that use it up.
   */
  TAIL_BYTES_PER_TENANT: 8 * MIB,
  /** Most notifications that a stream gets from one read of the log. Of 300 bytes each they fill BACKLOG_PAGE_BYTES. */
  BACKLOG_PAGE_ROWS: 200,
  /**
   * Most bytes of `data` that a stream gets from one read of the log (one notification always fits): as much as may wait
   * for its socket, since more would be read before it can be sent.
   */
  BACKLOG_PAGE_BYTES: 64 * KIB,
  /**
   * Most streams that one read of the log serves. It bounds what a read has in memory, and 10,000 streams that come back
   * at once still need no more than a hundred statements or so (docs/performance.md).
   */
  BACKLOG_READERS: 300,
  /**
   * How often a node compares the heads of the tenants with open streams with the database, in ms: what another node
   * published is seen within it. Each time it also reports that it lives, so this has to stay far below the 10 s after
   * which a silent node is taken for dead.
   */
  LOG_POLL_MS: 1_000,

  // --- receipts ---

  /**
   * How often a node writes down what was sent, in ms. A node that is killed forgets what it sent since; to write more
   * often makes more and smaller rows of the same.
   */
  RECEIPTS_FLUSH_MS: 250,
  /**
   * About how many intervals of `sent` a node writes in a second. Where more streams are written to, each gets fewer and
   * longer ones, and history says `sent` some seconds later. With 5,000 a delivery cost PostgreSQL almost twice the time
   * (test/bench/README.md).
   */
  RECEIPTS_ROWS_PER_SECOND: 2_000,
  /**
   * Most intervals that wait while the database is away; then the oldest of `sent` are forgotten, never of `delivered`.
   * It bounds memory, and lasts for more than a minute at RECEIPTS_ROWS_PER_SECOND.
   */
  RECEIPTS_QUEUE_LIMIT: 200_000,

  // --- maintenance ---

  /**
   * Partitions of the log that are made ahead of time. With partitions of a day, maintenance may fail for days before
   * a publish has to wait for a partition to be made.
   */
  PARTITIONS_AHEAD: 3,
  /** Pause between two rounds of maintenance, in s. Retention counts in days, so ten minutes more do not matter. */
  MAINTENANCE_INTERVAL_SECONDS: 600,
  /**
   * How often a node looks for the age of the oldest snapshot, in s: often enough that Prometheus, which asks every 15 to 60 s,
   * never misses one that lasts. A look costs the database a fraction of a millisecond.
   */
  SNAPSHOT_WATCH_SECONDS: 5,
});

/** The constants, or what a test has in their place. */
export type Tuning = Readonly<Record<keyof typeof TUNING, number>>;
