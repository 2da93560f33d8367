import packageJson from '../../package.json' with { type: 'json' };

/** The version of Tidings, as package.json has it (Semantic Versioning): the one place where it stands. */
export const VERSION: string = packageJson.version;
