BEGIN TRANSACTION;
CREATE TABLE decisions (
	job VARCHAR(64) NOT NULL, 
	party VARCHAR(63) NOT NULL, 
	place BIGINT NOT NULL, 
	decision VARCHAR(8) NOT NULL, 
	statement TEXT NOT NULL, 
	signature VARCHAR(128) NOT NULL, 
	PRIMARY KEY (job, party), 
	FOREIGN KEY(job) REFERENCES jobs (identity)
);
INSERT INTO "decisions" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4','bank',0,'approve','{}','00');
INSERT INTO "decisions" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4','platform',1,'approve','{}','00');
CREATE TABLE inner_products (
	job VARCHAR(64) NOT NULL, 
	number BIGINT NOT NULL, 
	party VARCHAR(63) NOT NULL, 
	earlier BIGINT NOT NULL, 
	value DOUBLE NOT NULL, 
	PRIMARY KEY (job, number, party, earlier), 
	FOREIGN KEY(job, number, party) REFERENCES reports (job, number, party)
);
INSERT INTO "inner_products" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',2,'bank',0,0.01);
INSERT INTO "inner_products" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',2,'platform',0,0.01);
INSERT INTO "inner_products" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',3,'bank',0,0.0);
INSERT INTO "inner_products" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',3,'bank',1,0.001);
INSERT INTO "inner_products" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',3,'platform',0,0.0);
INSERT INTO "inner_products" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',3,'platform',1,0.001);
INSERT INTO "inner_products" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',4,'bank',0,0.0);
INSERT INTO "inner_products" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',4,'bank',1,0.0);
INSERT INTO "inner_products" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',4,'bank',2,0.0001);
INSERT INTO "inner_products" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',4,'platform',0,0.0);
INSERT INTO "inner_products" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',4,'platform',1,0.0);
INSERT INTO "inner_products" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',4,'platform',2,0.0001);
INSERT INTO "inner_products" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',5,'bank',0,0.0);
INSERT INTO "inner_products" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',5,'bank',1,0.0);
INSERT INTO "inner_products" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',5,'bank',2,0.0);
INSERT INTO "inner_products" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',5,'bank',3,1.0e-05);
INSERT INTO "inner_products" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',5,'platform',0,0.0);
INSERT INTO "inner_products" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',5,'platform',1,0.0);
INSERT INTO "inner_products" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',5,'platform',2,0.0);
INSERT INTO "inner_products" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',5,'platform',3,1.0e-05);
CREATE TABLE jobs (
	identity VARCHAR(64) NOT NULL, 
	spec TEXT NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	code VARCHAR(64) NOT NULL, 
	attempt BIGINT NOT NULL, 
	converged BOOLEAN NOT NULL, 
	offered TEXT NOT NULL, 
	submitted VARCHAR(40) NOT NULL, 
	updated VARCHAR(40) NOT NULL, 
	PRIMARY KEY (identity)
);
INSERT INTO "jobs" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4','{"align":{"method":"curve","minimum":1000,"normalise":"casefold"},"coordinator":"coordinator","disclose":{"aggregates_to_coordinator":true,"aggregates_to_feature_holder":false},"feature_holder":{"dataset":"shop","features":["spend"],"name":"platform","role":"platform"},"kind":"train","label":{"column":"default"},"label_holder":{"dataset":"cards","features":["limit","age"],"name":"bank","role":"bank"},"model":{"bands":40,"holdout":"0.2","key_bits":3072,"kind":"logistic","l2":"0.0001","lookup_entries":"auto","rounds":8,"tolerance":"0.00001"},"nonce":"00000000000000000000000000000000","title":"","v":1}','finished','',0,1,'[]','2030-01-01T00:00:00Z','2030-01-01T00:00:01Z');
INSERT INTO "jobs" VALUES('48d8b1ec4a22e97cee8e4041f08226f845408ec904a42f21bb32bdf9a45fdeb1','{"align":{"method":"curve","minimum":1000,"normalise":"casefold"},"coordinator":"coordinator","disclose":{"aggregates_to_coordinator":true,"aggregates_to_feature_holder":false},"feature_holder":{"dataset":"shop","features":["spend"],"name":"platform","role":"platform"},"kind":"train","label":{"column":"default"},"label_holder":{"dataset":"cards","features":["limit","age"],"name":"bank","role":"bank"},"model":{"bands":40,"holdout":"0.2","key_bits":3072,"kind":"logistic","l2":"0.0001","lookup_entries":"auto","rounds":8,"tolerance":"0.00001"},"nonce":"44444444444444444444444444444444","title":"","v":1}','submitted','',0,0,'[]','2030-01-02T00:00:00Z','2030-01-02T00:00:00Z');
CREATE TABLE reports (
	job VARCHAR(64) NOT NULL, 
	number BIGINT NOT NULL, 
	party VARCHAR(63) NOT NULL, 
	place BIGINT NOT NULL, 
	transcript_sha256 VARCHAR(64) NOT NULL, 
	seconds DOUBLE NOT NULL, 
	bytes_sent BIGINT NOT NULL, 
	bytes_received BIGINT NOT NULL, 
	peak_rss_bytes BIGINT NOT NULL, 
	set_size BIGINT NOT NULL, 
	intersection BIGINT NOT NULL, 
	rows_train BIGINT NOT NULL, 
	rows_holdout BIGINT NOT NULL, 
	columns BIGINT NOT NULL, 
	base_rate VARCHAR(12) NOT NULL, 
	metrics TEXT NOT NULL, 
	PRIMARY KEY (job, number, party), 
	FOREIGN KEY(job, number) REFERENCES steps (job, number)
);
INSERT INTO "reports" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',0,'bank',0,'abababababababababababababababababababababababababababababababab',1.5,0,0,0,3000,2000,1600,400,0,'','');
INSERT INTO "reports" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',0,'platform',1,'abababababababababababababababababababababababababababababababab',1.5,0,0,0,3000,2000,1600,400,0,'','');
INSERT INTO "reports" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',1,'bank',0,'abababababababababababababababababababababababababababababababab',1.5,0,0,0,0,0,0,0,3,'0.21','');
INSERT INTO "reports" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',1,'platform',1,'abababababababababababababababababababababababababababababababab',1.5,0,0,0,0,0,0,0,3,'0.21','');
INSERT INTO "reports" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',2,'bank',0,'abababababababababababababababababababababababababababababababab',1.5,0,0,0,0,0,0,0,0,'','');
INSERT INTO "reports" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',2,'platform',1,'abababababababababababababababababababababababababababababababab',1.5,0,0,0,0,0,0,0,0,'','');
INSERT INTO "reports" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',3,'bank',0,'abababababababababababababababababababababababababababababababab',1.5,0,0,0,0,0,0,0,0,'','');
INSERT INTO "reports" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',3,'platform',1,'abababababababababababababababababababababababababababababababab',1.5,0,0,0,0,0,0,0,0,'','');
INSERT INTO "reports" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',4,'bank',0,'abababababababababababababababababababababababababababababababab',1.5,0,0,0,0,0,0,0,0,'','');
INSERT INTO "reports" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',4,'platform',1,'abababababababababababababababababababababababababababababababab',1.5,0,0,0,0,0,0,0,0,'','');
INSERT INTO "reports" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',5,'bank',0,'abababababababababababababababababababababababababababababababab',1.5,0,0,0,0,0,0,0,0,'','');
INSERT INTO "reports" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',5,'platform',1,'abababababababababababababababababababababababababababababababab',1.5,0,0,0,0,0,0,0,0,'','');
INSERT INTO "reports" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',6,'bank',0,'abababababababababababababababababababababababababababababababab',1.5,0,0,0,0,0,0,0,0,'','');
INSERT INTO "reports" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',6,'platform',1,'abababababababababababababababababababababababababababababababab',1.5,0,0,0,0,0,0,0,0,'','');
INSERT INTO "reports" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',7,'bank',0,'abababababababababababababababababababababababababababababababab',1.5,0,0,0,0,0,0,0,0,'','{"auc": 0.75, "ks": 0.4, "log_loss": 0.5, "base_rate": 0.21, "rows": 400, "gains": [{"decile": 1, "rows": 40, "positives": 20}]}');
INSERT INTO "reports" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',7,'platform',1,'abababababababababababababababababababababababababababababababab',1.5,0,0,0,0,0,0,0,0,'','{"auc": 0.75, "ks": 0.4, "log_loss": 0.5, "base_rate": 0.21, "rows": 400, "gains": [{"decile": 1, "rows": 40, "positives": 20}]}');
CREATE TABLE schema (
	version BIGINT NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "schema" VALUES(1);
CREATE TABLE steps (
	job VARCHAR(64) NOT NULL, 
	number BIGINT NOT NULL, 
	step VARCHAR(16) NOT NULL, 
	round BIGINT NOT NULL, 
	attempt BIGINT NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	coefficients TEXT NOT NULL, 
	lookup_range DOUBLE NOT NULL, 
	decrement DOUBLE NOT NULL, 
	PRIMARY KEY (job, number), 
	FOREIGN KEY(job) REFERENCES jobs (identity)
);
INSERT INTO "steps" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',0,'align',0,0,'done','[]',0.0,0.0);
INSERT INTO "steps" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',1,'prepare',0,0,'done','[]',0.0,0.0);
INSERT INTO "steps" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',2,'round',1,0,'done','[]',2.0,0.005);
INSERT INTO "steps" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',3,'round',2,0,'done','[1.0]',8.0,0.0005);
INSERT INTO "steps" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',4,'round',3,0,'done','[1.1, 1.0]',8.0,5.0e-05);
INSERT INTO "steps" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',5,'round',4,0,'done','[1.11, 1.1, 1.0]',8.0,5.0e-06);
INSERT INTO "steps" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',6,'finish',0,0,'done','[1.110979245793565, 1.1097924579356493, 1.097924579356492, 0.9792457935649213]',8.0,0.0);
INSERT INTO "steps" VALUES('375b5fa53ef2e23e0dc2efd2755dd10bf9c7a36d474bc77a76461772b8406cd4',7,'evaluate',0,0,'done','[1.110979245793565, 1.1097924579356493, 1.097924579356492, 0.9792457935649213]',8.0,0.0);
CREATE INDEX ix_jobs_state ON jobs (state);
CREATE INDEX ix_jobs_submitted ON jobs (submitted);
COMMIT;
