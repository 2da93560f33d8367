/** Two test files run at a time, and share two processors with PostgreSQL and browsers. */
const BESIDE_OTHERS = 3;

/** How long a test waits for what the product promises within `ms`. What does not come at all is missed by more than that. */
export const promised = (ms: number): number => ms * BESIDE_OTHERS;
