/** A name and a password as a URL holds them. */
export interface Login {
  readonly name: string;
  readonly password: string;
}

/** One server of several that a URL can name. */
export interface Host {
  /** A name, an address, or the folder of a Unix socket. */
  readonly host: string;
  readonly port: number;
}

/** Where a database is and who asks, read from a URL. */
export interface DatabaseUrl {
  readonly login: Login;
  /** To be tried in this order. */
  readonly hosts: readonly [Host, ...Host[]];
  /** Hosts and database, for people: without login and password. */
  readonly place: string;
  /** The same for the driver, which knows one host. */
  readonly urlOf: (host: Host) => string;
}

/** A URL that leads nowhere. Its message is for the operator, and never repeats the URL, which holds a password. */
export class DatabaseUrlError extends Error {
  override readonly name = 'DatabaseUrlError';
}

/* The password may hold colons; whatever else would end it has to be written as %40, %2F, %3F, %23. */
const FORM = /^postgres(?:ql)?:\/\/([^/?#@]+)@([^/?#@]*)(?:\/([^?#]*))?(?:\?([^#]*))?$/;
const HOST = /^(?:\[([0-9A-Fa-f:.]+(?:%[^\]]*)?)\]|([^:[\]]*))(?::(\d+))?$/;
const STANDARD_PORT = 5432;

/** All of them mean a server that takes writes here: the service is of no use on another. */
const WRITABLE = new Set(['any', 'read-write', 'primary']);

/**
 * Reads a URL as libpq does ("Connection URIs", § 34.1.1.2 of PostgreSQL's manual): several hosts after commas, a Unix
 * socket as `?host=/folder` or as a percent-encoded host, `target_session_attrs`. What else stands behind the `?` is the
 * driver's.
 *
 * @throws DatabaseUrlError
 */
export function readDatabaseUrl(url: string): DatabaseUrl {
  const [, userinfo, authority = '', path = '', query = ''] = FORM.exec(url) ?? [];
  if (userinfo === undefined)
    throw new DatabaseUrlError(
      'begins with postgres:// and a login, as in postgres://name:password@host:5432/database; in name and password @ / ? # and % are written %40 %2F %3F %23 %25',
    );
  const parameters = new URLSearchParams(query);
  const hosts = hostsOf(authority, parameters);
  const colon = userinfo.indexOf(':');
  const login = {
    name: decode(colon < 0 ? userinfo : userinfo.slice(0, colon)),
    password: colon < 0 ? '' : decode(userinfo.slice(colon + 1)),
  };
  if (login.name === '') throw new DatabaseUrlError('names no login before the password');
  for (const name of ['user', 'password'])
    if (parameters.has(name)) throw new DatabaseUrlError(`names its login before the @, not as ?${name}=`);
  const wanted = parameters.get('target_session_attrs');
  if (wanted !== null && !WRITABLE.has(wanted))
    throw new DatabaseUrlError(
      'has a target_session_attrs that leads to servers without writes: read-write, primary or any is of use',
    );
  const database = decode(path);
  for (const name of ['host', 'port', 'target_session_attrs']) parameters.delete(name);
  return {
    login,
    hosts,
    place: `${hosts.map(nameOf).join(',')}/${database}`,
    urlOf: ({ host, port }) => {
      const all = new URLSearchParams(parameters);
      all.set('host', host);
      all.set('port', String(port));
      const who = [login.name, ...(login.password === '' ? [] : [login.password])].map(encodeURIComponent);
      return `postgres://${who.join(':')}@localhost/${encodeURI(database)}?${all.toString()}`;
    },
  };
}

/** As people write it. */
export function nameOf({ host, port }: Host): string {
  return `${host.includes(':') ? `[${host}]` : host}:${port}`;
}

function hostsOf(authority: string, parameters: URLSearchParams): [Host, ...Host[]] {
  const given = parameters.get('host');
  const ports = parameters.get('port')?.split(',') ?? [];
  const named =
    given === null
      ? authority.split(',').map(hostOf)
      : given.split(',').map((host) => ({ host, port: undefined }));
  if (ports.length > 1 && ports.length !== named.length)
    throw new DatabaseUrlError(
      'has another number of ports than of hosts: give one for all, or one for each',
    );
  const [first, ...others] = named.map(({ host, port }, at) => ({
    host: host === '' ? 'localhost' : host,
    port: port ?? portOf(ports[at] ?? ports[0]) ?? STANDARD_PORT,
  }));
  if (first === undefined) throw new DatabaseUrlError('names no host');
  return [first, ...others];
}

function hostOf(text: string): { host: string; port: number | undefined } {
  const [whole, address, name = '', port] = HOST.exec(text) ?? [];
  if (whole === undefined)
    throw new DatabaseUrlError(
      'has a host that is none: host, host:port or [address]:port, with commas between several',
    );
  return { host: address ?? decode(name), port: portOf(port) };
}

function portOf(text: string | undefined): number | undefined {
  if (text === undefined || text === '') return undefined;
  const port = /^\d{1,5}$/.test(text) ? Number(text) : 0;
  if (port < 1 || port > 65_535) throw new DatabaseUrlError('has a port that is none: 1 to 65535');
  return port;
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new DatabaseUrlError('has a % that begins no escape: write it as %25');
  }
}
