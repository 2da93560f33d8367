import { request, type Agent } from 'node:http';

/** Posts, reads the answer to its end, and says its status. Costs a fraction of `fetch`. */
export function postJson(url: string, token: string, body: string, agent: Agent): Promise<number> {
  return new Promise((resolve, reject) => {
    request(
      url,
      {
        method: 'POST',
        agent,
        headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      },
      (answer) => {
        answer
          .resume()
          .on('end', () => resolve(answer.statusCode ?? 0))
          .on('error', reject);
      },
    )
      .on('error', reject)
      .end(body);
  });
}
