BEGIN TRANSACTION;
CREATE TABLE meta (
	"key" VARCHAR NOT NULL, 
	value VARCHAR NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "meta" VALUES('schema','1');
INSERT INTO "meta" VALUES('revision','4');
INSERT INTO "meta" VALUES('last_id','6');
CREATE TABLE tasks (
	number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	id VARCHAR, 
	array VARCHAR, 
	revision INTEGER NOT NULL, 
	name VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	reason VARCHAR, 
	exitcode INTEGER, 
	signal INTEGER, 
	resource VARCHAR, 
	jobid VARCHAR, 
	native_state VARCHAR NOT NULL, 
	info VARCHAR NOT NULL, 
	output_dir VARCHAR, 
	created_at FLOAT NOT NULL, 
	submitted_at FLOAT, 
	started_at FLOAT, 
	ended_at FLOAT, 
	collected BOOLEAN NOT NULL, 
	freed BOOLEAN NOT NULL, 
	application TEXT NOT NULL, 
	run TEXT NOT NULL, 
	UNIQUE (id)
);
INSERT INTO "tasks" VALUES(1,'1',NULL,4,'sim-7','FAILED','signalled',NULL,9,'cluster','4711','OUT_OF_MEMORY','killed','/home/ada/out/7',1893456000.0,1893456001.0,1893456060.0,1893456090.0,0,0,'{"arguments": ["./simulate", "--seed", "7"], "inputs": {"/home/ada/simulate": "simulate"}, "outputs": {"result.csv": "result.csv", "all": "kept/all"}, "output_dir": "/home/ada/out/7", "environment": {"SEED": "7"}, "jobname": "sim-7", "requested_cores": 4, "requested_memory": "8 GB", "requested_walltime": "2 h", "mail_to": "ada@example.org", "mail_on": ["end"], "native": ["--nice=5"], "retries": 2, "tags": ["first"]}','{"state": "FAILED", "reason": "signalled", "signal": 9, "native_state": "OUT_OF_MEMORY", "resource": "cluster", "jobid": "4711", "token": "20300101-abc", "submission_started": true, "attempts": 1, "retried": 1, "info": "killed", "accounting": {"cpu_time": "25 s", "wall_time": "30 s", "max_memory": "8 GiB", "cores": 4, "hosts": ["n1", "n2"], "submitted": 1893456001.0, "started": 1893456060.0, "ended": 1893456090.0, "runs": 2, "native": {"State": "OUT_OF_MEMORY"}}, "timestamps": {"QUEUED": 1893456001.5, "RUNNING": 1893456060.0, "FAILED": 1893456090.0}, "history": [[1893456000.0, "submitting"], [1893456001.5, "accepted as 4711"], [1893456090.0, "killed"]]}');
INSERT INTO "tasks" VALUES(2,'2',NULL,1,'true','NEW',NULL,NULL,NULL,NULL,NULL,'','','/home/ada/2',1893456000.0,NULL,NULL,NULL,0,0,'{"arguments": ["true"], "output_dir": "/home/ada/2", "jobname": "true"}','{}');
INSERT INTO "tasks" VALUES(4,'4',NULL,1,'true','NEW',NULL,NULL,NULL,NULL,NULL,'','','/home/ada/4',1893456000.0,NULL,NULL,NULL,0,0,'{"arguments": ["true"], "output_dir": "/home/ada/4", "jobname": "true"}','{}');
INSERT INTO "tasks" VALUES(5,'5.1','5',2,'fit','NEW',NULL,NULL,NULL,NULL,NULL,'','','/home/ada/5.1',1893456000.0,NULL,NULL,NULL,0,0,'{"arguments": ["./fit", "in.csv", "1"], "inputs": {"/home/ada/in1.csv": "in.csv"}, "outputs": {"out.csv": "out1.csv"}, "output_dir": "/home/ada/5.1", "jobname": "fit", "after": [{"ids": ["1"]}], "array": {"name": "5", "index": 1, "max_running": 2}}','{}');
INSERT INTO "tasks" VALUES(6,'5.3','5',2,'fit','NEW',NULL,NULL,NULL,NULL,NULL,'','','/home/ada/5.3',1893456000.0,NULL,NULL,NULL,0,0,'{"arguments": ["./fit", "in.csv", "3"], "inputs": {"/home/ada/in3.csv": "in.csv"}, "outputs": {"out.csv": "out3.csv"}, "output_dir": "/home/ada/5.3", "jobname": "fit", "after": [{"ids": ["1"]}], "array": {"name": "5", "index": 3, "max_running": 2}}','{}');
INSERT INTO "tasks" VALUES(7,'5.5','5',2,'fit','NEW',NULL,NULL,NULL,NULL,NULL,'','','/home/ada/5.5',1893456000.0,NULL,NULL,NULL,0,0,'{"arguments": ["./fit", "in.csv", "5"], "inputs": {"/home/ada/in5.csv": "in.csv"}, "outputs": {"out.csv": "out5.csv"}, "output_dir": "/home/ada/5.5", "jobname": "fit", "after": [{"ids": ["1"]}], "array": {"name": "5", "index": 5, "max_running": 2}}','{}');
INSERT INTO "tasks" VALUES(8,'6.8','6',3,'hostname','NEW',NULL,NULL,NULL,NULL,NULL,'','','/home/ada/6.8',1893456000.0,NULL,NULL,NULL,0,0,'{"arguments": ["hostname"], "output_dir": "/home/ada/6.8", "jobname": "hostname", "array": {"name": "6", "index": 8}}','{}');
INSERT INTO "tasks" VALUES(9,'6.9','6',4,'hostname','QUEUED',NULL,NULL,NULL,'cluster','4712_9','','','/home/ada/6.9',1893456000.0,NULL,NULL,NULL,0,0,'{"arguments": ["hostname"], "output_dir": "/home/ada/6.9", "jobname": "hostname", "array": {"name": "6", "index": 9}}','{"state": "QUEUED", "resource": "cluster", "jobid": "4712_9", "token": "t/9", "waits_for": [{"jobid": "4711", "on": "any"}], "unseen_since": 1893456000.0}');
CREATE INDEX ix_tasks_array ON tasks (array);
CREATE INDEX ix_tasks_state ON tasks (state);
CREATE INDEX ix_tasks_revision ON tasks (revision);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('tasks',9);
COMMIT;
