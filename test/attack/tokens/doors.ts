import { randomUUID } from 'node:crypto';
import { ofUsers, operationsOf, type OperationKey } from '../document.ts';

/** A request that a token could be good for. */
export interface Door {
  readonly method: string;
  readonly path: string;
  /** As JSON. Undefined: it takes none. */
  readonly body: string | undefined;
}

/** What would leave something behind, where `{}` would be refused. */
const BODIES: Readonly<Partial<Record<OperationKey, object>>> = { 'POST /v1/acks': { upTo: '0' } };

/** Everything that the token of a user opens, as the OpenAPI document has it: what is added there is tried, too. */
export async function doorsOfUsers(url: string): Promise<Door[]> {
  const documented = await operationsOf(url);
  return ofUsers(documented).map((key) => {
    const [method = '', template = ''] = key.split(' ');
    const parameters = [...(documented.get(key)?.parameters.keys() ?? [])];
    const takesBody = parameters.some((parameter) => parameter.startsWith('body '));
    return {
      method,
      path: template.replaceAll(/\{\w+\}/g, () => randomUUID()),
      body: takesBody ? JSON.stringify(BODIES[key] ?? {}) : undefined,
    };
  });
}
