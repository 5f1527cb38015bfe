select max(version) as version from split.version;
