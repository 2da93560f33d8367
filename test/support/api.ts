/** One answer of the service: its status, headers and body. */
export interface Answer<Body = Record<string, unknown>> {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Body;
}

export interface StoredAnswer {
  readonly id: string;
  readonly position: string;
  readonly createdAt: string;
}

/** For an answer that never comes, so that it is told which one that was. */
const NEVER_MS = 150_000;

async function answerOf<Body>(response: Response): Promise<Answer<Body>> {
  const text = await response.text();
  return {
    status: response.status,
    headers: response.headers,
    body: (text === '' ? {} : JSON.parse(text)) as Body,
  };
}

/**
 * POSTs JSON: a value, or text that goes out as it is.
 *
 * @param within after it, in ms, the answer is not waited for any more
 */
export async function post<Body = Record<string, unknown>>(
  url: string,
  token: string,
  body: unknown,
  headers: Record<string, string> = {},
  within = NEVER_MS,
): Promise<Answer<Body>> {
  const response = await fetch(url, {
    method: 'POST',
    signal: AbortSignal.timeout(within),
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json', ...headers },
    body: Buffer.isBuffer(body)
      ? new Uint8Array(body)
      : typeof body === 'string'
        ? body
        : JSON.stringify(body),
  });
  return await answerOf<Body>(response);
}

export async function get<Body = Record<string, unknown>>(
  url: string,
  token: string,
  headers: Record<string, string> = {},
): Promise<Answer<Body>> {
  return await answerOf<Body>(
    await fetch(url, {
      headers: { authorization: `Bearer ${token}`, ...headers },
      signal: AbortSignal.timeout(NEVER_MS),
    }),
  );
}

/** Publishes one notification and expects it to be stored. */
export async function publish(
  url: string,
  token: string,
  notification: Record<string, unknown>,
): Promise<StoredAnswer> {
  const { status, body } = await post<StoredAnswer>(`${url}/v1/notifications`, token, notification);
  if (status !== 201) throw new Error(`publish was answered ${status}: ${JSON.stringify(body)}`);
  return body;
}
