import type { Adapter, AdapterPayload } from 'oidc-provider';

/** Where the provider keeps clients, sessions, grants and codes: in memory, and beyond a change of its keys. */
export class ProviderStore {
  readonly #rows = new Map<string, AdapterPayload>();

  /** What the provider asks for each of its models. */
  readonly adapter = (model: string): Adapter => {
    const key = (id: string) => `${model} ${id}`;
    const find = (id: string) => this.#rows.get(key(id));
    return {
      upsert: async (id, payload) => void this.#rows.set(key(id), payload),
      find: async (id) => find(id),
      findByUid: async (uid) => {
        for (const [at, row] of this.#rows) if (at.startsWith(key('')) && row.uid === uid) return row;
        return undefined;
      },
      findByUserCode: async () => undefined,
      consume: async (id) => {
        const row = find(id);
        if (row !== undefined) row.consumed = Math.floor(Date.now() / 1000);
      },
      destroy: async (id) => void this.#rows.delete(key(id)),
      revokeByGrantId: async (grantId) => {
        for (const [at, row] of this.#rows) if (row.grantId === grantId) this.#rows.delete(at);
      },
    };
  };
}
