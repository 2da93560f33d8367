import { run } from './global-setup.ts';
import { statementsWithoutTenant } from './statement-log.ts';

/** Fails the run when a statement of the service's login, of whichever test, named no tenant. */
export default async function tearDown(): Promise<void> {
  const { server } = run;
  if (server === undefined) return;
  try {
    const nameless = await statementsWithoutTenant(server.url('postgres'));
    if (nameless.length > 0)
      throw new Error(`Statements of the service's login that name no tenant:\n\n${nameless.join('\n\n')}`);
  } finally {
    await server.remove();
  }
}
