#!/bin/sh
# Runs once, when the database is made: the three logins of the service, none of which is a superuser or can become
# another. The tables are made by the owner's at the first start.
set -eu
psql --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" \
  --set=owner_password="$TIDINGS_OWNER_PASSWORD" \
  --set=service_password="$TIDINGS_SERVICE_PASSWORD" \
  --set=engine_password="$TIDINGS_ENGINE_PASSWORD" \
  --set=database="$POSTGRES_DB" <<'SQL'
create role tidings_owner login password :'owner_password';
create role tidings_service login password :'service_password';
create role tidings_engine login password :'engine_password';
grant pg_read_all_stats to tidings_engine, tidings_owner;
alter database :"database" owner to tidings_owner;
-- What PostgreSQL lets everybody do, and none of these needs.
revoke temporary on database :"database" from public;
revoke execute on function lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea) from public;
SQL
