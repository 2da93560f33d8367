const OLDEST_MAJOR = 15;

/** What is wrong with a server of this `server_version_num`, for people: undefined if it is new enough. */
export function faultOfVersion(versionNumber: number): string | undefined {
  const major = Math.floor(versionNumber / 10_000);
  return major < OLDEST_MAJOR
    ? `it is PostgreSQL ${major}, and ${OLDEST_MAJOR} or newer is needed`
    : undefined;
}
