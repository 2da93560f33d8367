import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Provider } from 'oidc-provider';
import type { Bearer, Directory } from './provider-configuration.ts';

/** The pages on which a person signs in and then consents; each posts to itself. */
export async function showOrSubmit(
  provider: Provider,
  { users }: Directory,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const { prompt, params, session, lastSubmission } = await provider.interactionDetails(request, response);
  if (request.method === 'GET') {
    response.setHeader('content-type', 'text/html');
    response.end(`<form method="post"><input type="hidden" name="prompt" value="${prompt.name}"></form>`);
    return;
  }
  const form = await readForm(request);
  if (form.get('prompt') !== prompt.name) throw new Error('The form is not the one that was shown.');
  if (prompt.name === 'login') {
    const subject = form.get('user') ?? '';
    const bearer: Bearer = {
      subject,
      tenant: form.get('tenant') ?? '',
      topics: form.has('topic') ? form.getAll('topic') : undefined,
      device: form.get('device') ?? undefined,
      scopes: [],
    };
    const login = { accountId: subject, bearer };
    await provider.interactionFinished(request, response, { login });
    return;
  }
  const grant = new provider.Grant({
    accountId: session?.accountId ?? '',
    clientId: String(params['client_id']),
  });
  grant.addOIDCScope('openid');
  const grantId = await grant.save();
  users.set(grantId, lastSubmission?.login?.['bearer'] as Bearer);
  await provider.interactionFinished(request, response, { consent: { grantId } });
}

async function readForm(request: IncomingMessage): Promise<URLSearchParams> {
  let body = '';
  for await (const chunk of request.setEncoding('utf8')) body += String(chunk);
  return new URLSearchParams(body);
}
