import ca.uhn.fhir.batch2.jobs.config.Batch2JobsConfig;
import ca.uhn.fhir.context.support.IValidationSupport;
import ca.uhn.fhir.jpa.api.config.JpaStorageSettings;
import ca.uhn.fhir.jpa.api.config.ThreadPoolFactoryConfig;
import ca.uhn.fhir.jpa.api.dao.IFhirSystemDao;
import ca.uhn.fhir.jpa.batch2.JpaBatch2Config;
import ca.uhn.fhir.jpa.binary.api.IBinaryStorageSvc;
import ca.uhn.fhir.jpa.binstore.DatabaseBinaryContentStorageSvcImpl;
import ca.uhn.fhir.jpa.config.HapiJpaConfig;
import ca.uhn.fhir.jpa.config.r4.JpaR4Config;
import ca.uhn.fhir.jpa.config.util.HapiEntityManagerFactoryUtil;
import ca.uhn.fhir.jpa.model.config.PartitionSettings;
import ca.uhn.fhir.jpa.model.config.SubscriptionSettings;
import ca.uhn.fhir.jpa.model.dialect.HapiFhirH2Dialect;
import ca.uhn.fhir.jpa.model.dialect.HapiFhirPostgresDialect;
import ca.uhn.fhir.jpa.provider.IJpaSystemProvider;
import ca.uhn.fhir.jpa.provider.JpaCapabilityStatementProvider;
import ca.uhn.fhir.jpa.search.DatabaseBackedPagingProvider;
import ca.uhn.fhir.jpa.subscription.channel.config.SubscriptionChannelConfig;
import ca.uhn.fhir.jpa.subscription.match.config.SubscriptionProcessorConfig;
import ca.uhn.fhir.jpa.subscription.match.deliver.email.IEmailSender;
import ca.uhn.fhir.jpa.subscription.submit.config.SubscriptionSubmitterConfig;
import ca.uhn.fhir.rest.api.EncodingEnum;
import ca.uhn.fhir.rest.server.RestfulServer;
import ca.uhn.fhir.rest.server.provider.ResourceProviderFactory;
import ca.uhn.fhir.rest.server.util.ISearchParamRegistry;
import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import jakarta.persistence.EntityManagerFactory;
import java.net.InetSocketAddress;
import java.util.Map;
import javax.sql.DataSource;
import org.eclipse.jetty.ee10.servlet.ServletContextHandler;
import org.eclipse.jetty.ee10.servlet.ServletHolder;
import org.eclipse.jetty.server.Server;
import org.springframework.beans.factory.config.ConfigurableListableBeanFactory;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.context.annotation.Import;
import org.springframework.context.annotation.Primary;
import org.springframework.orm.jpa.JpaTransactionManager;
import org.springframework.orm.jpa.LocalContainerEntityManagerFactoryBean;
import org.springframework.web.context.support.AnnotationConfigWebApplicationContext;

/**
 * HAPI FHIR's R4 JPA server, started with its own defaults beside our service, to be asked what ours is asked.
 *
 * <p>Arguments: port on loopback, JDBC URL, database user. Writes one line that begins with "serving" once it answers.
 * What differs from HAPI's defaults is what loading other people's records needs: references may point to records that
 * come later or to other servers. No result of a search is used for another, so that each one is measured. With
 * -Dbeside.every-search=true it also indexes what :missing, :contains and :of-type need, which costs it time.
 */
public final class HapiBesideUs {
    private HapiBesideUs() {}

    public static void main(String[] arguments) throws Exception {
        System.setProperty(Database.URL, arguments[1]);
        System.setProperty(Database.USER, arguments[2]);
        AnnotationConfigWebApplicationContext beans = new AnnotationConfigWebApplicationContext();
        beans.setAllowCircularReferences(true);
        beans.register(Database.class, Engine.class);
        beans.refresh();

        int port = Integer.parseInt(arguments[0]);
        Server http = new Server(new InetSocketAddress("127.0.0.1", port));
        ServletContextHandler root = new ServletContextHandler("/");
        root.addServlet(new ServletHolder(beans.getBean(RestfulServer.class)), "/fhir/*");
        http.setHandler(root);
        http.start();
        System.out.println("serving on port " + port);
        http.join();
    }

    /** Where HAPI keeps its records. */
    @Configuration
    static class Database {
        static final String URL = "beside.jdbc";
        static final String USER = "beside.user";

        @Bean(destroyMethod = "close")
        HikariDataSource dataSource() {
            HikariConfig pool = new HikariConfig();
            pool.setJdbcUrl(System.getProperty(URL));
            pool.setUsername(System.getProperty(USER));
            pool.setPassword("");
            pool.setMaximumPoolSize(10);
            return new HikariDataSource(pool);
        }

        @Bean
        @Primary
        LocalContainerEntityManagerFactoryBean entityManagerFactory(
                ConfigurableListableBeanFactory beans,
                ca.uhn.fhir.context.FhirContext r4,
                JpaStorageSettings settings,
                DataSource source) {
            boolean isPostgres = System.getProperty(URL).startsWith("jdbc:postgresql:");
            Class<?> dialect = isPostgres ? HapiFhirPostgresDialect.class : HapiFhirH2Dialect.class;
            LocalContainerEntityManagerFactoryBean made =
                    HapiEntityManagerFactoryUtil.newEntityManagerFactory(beans, r4, settings);
            made.setPersistenceUnitName("HAPI_PU");
            made.setDataSource(source);
            made.setJpaPropertyMap(Map.of(
                    "hibernate.dialect", dialect.getName(),
                    "hibernate.hbm2ddl.auto", "update",
                    "hibernate.jdbc.batch_size", "20",
                    "hibernate.search.enabled", "false",
                    "hibernate.cache.use_query_cache", "false",
                    "hibernate.cache.use_second_level_cache", "false"));
            return made;
        }

        @Bean
        @Primary
        JpaTransactionManager transactionManager(EntityManagerFactory factory) {
            return new JpaTransactionManager(factory);
        }
    }

    /** HAPI's own configurations, and the few beans that they leave to whoever starts them. */
    @Configuration
    @Import({
        JpaR4Config.class,
        HapiJpaConfig.class,
        JpaBatch2Config.class,
        Batch2JobsConfig.class,
        ThreadPoolFactoryConfig.class,
        SubscriptionChannelConfig.class,
        SubscriptionProcessorConfig.class,
        SubscriptionSubmitterConfig.class
    })
    static class Engine {
        static final String EVERY_SEARCH = "beside.every-search";

        @Bean
        JpaStorageSettings storageSettings() {
            JpaStorageSettings settings = new JpaStorageSettings();
            settings.setAllowExternalReferences(true);
            settings.setEnforceReferentialIntegrityOnWrite(false);
            settings.setReuseCachedSearchResultsForMillis(null);
            settings.setHibernateSearchIndexSearchParams(false);
            if (Boolean.getBoolean(EVERY_SEARCH)) {
                settings.setIndexMissingFields(JpaStorageSettings.IndexEnabledEnum.ENABLED);
                settings.setAllowContainsSearches(true);
                settings.setIndexIdentifierOfType(true);
            }
            return settings;
        }

        @Bean
        PartitionSettings partitionSettings() {
            return new PartitionSettings();
        }

        @Bean
        SubscriptionSettings subscriptionSettings() {
            return new SubscriptionSettings();
        }

        @Bean
        IEmailSender emailSender() {
            return mail -> {};
        }

        @Bean
        IBinaryStorageSvc binaryStorage() {
            return new DatabaseBinaryContentStorageSvcImpl();
        }

        @Bean
        RestfulServer server(
                IFhirSystemDao<?, ?> system,
                IJpaSystemProvider systemProvider,
                ResourceProviderFactory providers,
                DatabaseBackedPagingProvider pages,
                ISearchParamRegistry parameters,
                IValidationSupport definitions,
                JpaStorageSettings settings) {
            RestfulServer server = new RestfulServer(system.getContext());
            server.setDefaultResponseEncoding(EncodingEnum.JSON);
            server.registerProviders(providers.createProviders());
            server.registerProvider(systemProvider);
            server.setServerConformanceProvider(
                    new JpaCapabilityStatementProvider(server, system, settings, parameters, definitions));
            pages.setDefaultPageSize(20);
            pages.setMaximumPageSize(1000);
            server.setPagingProvider(pages);
            return server;
        }
    }
}
